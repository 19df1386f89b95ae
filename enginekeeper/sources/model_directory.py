"""A source model on this machine, checked and named by its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from registry.digests import Digest, digest_document

SCHEME = "ek-model-v1"
"""Sorted (name, SHA-256) of the weights, config.json and what serves it: tokenizer, chat templates,
generation_config.json; nothing else."""

PythonFor = Callable[[str], Path]
"""Returns the interpreter of a toolchain, installing it first if need be."""


@dataclass(frozen=True, order=True)
class ModelFile:
    """One file that makes the model what it is."""

    name: str
    """Its path in the model's directory."""

    sha256: str
    size: int


@dataclass(frozen=True)
class ModelDirectory:
    """A directory that every later stage may trust to be whole."""

    path: Path
    digest: Digest
    files: tuple[ModelFile, ...]
    """Weights, config.json and what serves it, by name; other files are not part of the model."""

    note: str | None = None
    """What every figure measured against this model must say, such as `dequantized from Q4_1`."""

    @property
    def facts_path(self) -> Path:
        """Where the model describes itself."""
        return self.path / "config.json"

    def with_note(self, note: str | None) -> ModelDirectory:
        """Returns the same model with what is to be said about it."""
        return replace(self, note=note)


def model_digest(files: tuple[ModelFile, ...]) -> Digest:
    """Names a model by its files; where it lies and when it was written do not count."""
    listed: list[Any] = [[file.name, file.sha256] for file in sorted(files)]
    return digest_document({"files": listed}, SCHEME)
