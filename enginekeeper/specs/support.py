"""By what a model can be served: as a TensorRT engine, by the PyTorch backend, or by vLLM.

The engines' architectures are those of the releases (`releases.py`); the other lists are in
`data/model_support.json`, each as of one commit. Not being in a list is no proof that something
does not work: lists grow.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM
from enginekeeper.specs.releases import releases
from enginekeeper.tables import read_table

_TABLE = Path(__file__).with_name("data") / "model_support.json"


class Route(StrEnum):
    """How a model can be served, the one that Enginekeeper builds for first."""

    ENGINE = "engine"
    PYTORCH = "pytorch"
    """TensorRT-LLM's PyTorch backend; no engine is built."""

    AUTODEPLOY = "autodeploy"
    """The PyTorch backend by AutoDeploy."""

    VLLM = "vllm"
    UNKNOWN = "unknown"
    """In no list that is known here."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class _List:
    source: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Table:
    schema: Literal[1]
    pytorch: _List
    autodeploy: _List
    vllm: _List


@plain_dataclass(frozen=True)
class ModelSupport:
    """What is known of one architecture."""

    architecture: str
    engine_releases: tuple[str, ...]
    """Releases that build engines of it, the oldest first."""

    listed: dict[Route, str]
    """The other routes that list it, with the list's source."""

    @property
    def route(self) -> Route:
        """The first route that serves it."""
        if self.engine_releases:
            return Route.ENGINE
        return next(iter(self.listed), Route.UNKNOWN)

    @property
    def advice(self) -> str:
        """What to do."""
        match self.route:
            case Route.ENGINE:
                stable = [
                    name for name in self.engine_releases if not releases()[name].is_prerelease
                ]
                return f"set toolchain: {(stable or self.engine_releases)[-1]}"
            case Route.PYTORCH | Route.AUTODEPLOY:
                return (
                    "no engine: serve it by TensorRT-LLM's PyTorch backend (trtllm-serve), or vLLM"
                )
            case Route.VLLM:
                return (
                    "serve it by vLLM meanwhile, with fallback: vllm in its build spec; no list of "
                    "TensorRT-LLM has it"
                )
            case Route.UNKNOWN:
                return "look at vLLM's own list of models, multimodal ones included"


def support_of(architecture: str) -> ModelSupport:
    """Returns by what an architecture can be served; upper and lower case do not count."""
    wanted = architecture.lower()
    building = tuple(
        name
        for name, release in releases().items()
        if wanted in {known.lower() for known in release.architecture_names}
    )
    table = _read()
    lists = {Route.PYTORCH: table.pytorch, Route.AUTODEPLOY: table.autodeploy,
             Route.VLLM: table.vllm}  # fmt: skip
    listed = {
        route: one.source
        for route, one in lists.items()
        if wanted in {known.lower() for known in one.architectures}
    }
    return ModelSupport(architecture, building, listed)


def pytorch_architectures() -> frozenset[str]:
    """Returns the architectures that the list of the PyTorch backend has."""
    return frozenset(_read().pytorch.architectures)


@cache
def _read() -> _Table:
    return read_table(_TABLE, TypeAdapter(_Table))
