"""By what a model can be served: as a TensorRT engine, by the PyTorch backend, or by vLLM.

The engines' architectures are those of the releases (`releases.py`); the other lists are in
`data/model_support.json`:

- TensorRT-LLM's, one for each release that something was read of, the oldest first. A list that
  says `added` says that it came with that release; any other, that it was there by then;
- vLLM's is the registry of the very release that the toolchains pin, and so of what a fallback is
  served by: what that release has dropped is not served by it.

Not being in a list is no proof that something does not work: lists grow.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    release: str
    added: bool
    source: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Vllm:
    release: str
    source: str
    text: tuple[str, ...]
    multimodal: tuple[str, ...]
    dropped: dict[str, str]
    """Architectures that it had, each with the last release that did."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Table:
    schema: Literal[2]
    pytorch: tuple[_List, ...]
    autodeploy: tuple[_List, ...]
    vllm: _Vllm


@plain_dataclass(frozen=True)
class Listed:
    """What a list says of an architecture."""

    release: str
    """The release that the list is of."""

    source: str
    added: bool = False
    """Whether the release is known to be the first one; else it may have been there before."""

    multimodal: bool = False
    """Whether the list has it among the models that take more than text."""

    def __str__(self) -> str:
        """Says from which release it holds."""
        return f"from {self.release}" if self.added else f"from {self.release} or earlier"


@plain_dataclass(frozen=True)
class ModelSupport:
    """What is known of one architecture."""

    architecture: str
    engine_releases: tuple[str, ...]
    """Releases that build engines of it, the oldest first."""

    listed: dict[Route, Listed]
    """The other routes that list it."""

    last_vllm: str | None = None
    """The last release of vLLM that served it, where the one that is used does not."""

    @property
    def route(self) -> Route:
        """The first route that serves it."""
        if self.engine_releases:
            return Route.ENGINE
        return next(iter(self.listed), Route.UNKNOWN)

    @property
    def can_fall_back(self) -> bool:
        """Whether `fallback: vllm` takes it: vLLM alone serves it, as a model of text."""
        return self.route is Route.VLLM and not self.listed[Route.VLLM].multimodal

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
            case Route.VLLM if self.can_fall_back:
                return (
                    "serve it by vLLM meanwhile, with fallback: vllm in its build spec; no list of "
                    "TensorRT-LLM has it"
                )
            case Route.VLLM:
                return (
                    "serve it by vLLM itself; no list of TensorRT-LLM has it, and fallback: vllm "
                    "takes models of text"
                )
            case Route.UNKNOWN if self.last_vllm is not None:
                return f"vLLM {self.last_vllm} was the last that served it: no current list has it"
            case Route.UNKNOWN:
                return "no list has it: look whether its architectures[0] is spelt as its class is"


def support_of(architecture: str) -> ModelSupport:
    """Returns by what an architecture can be served; upper and lower case do not count."""
    wanted = architecture.lower()
    building = tuple(
        name
        for name, release in releases().items()
        if wanted in {known.lower() for known in release.architecture_names}
    )
    table = _read()
    found = {
        Route.PYTORCH: _first(table.pytorch, wanted),
        Route.AUTODEPLOY: _first(table.autodeploy, wanted),
        Route.VLLM: _by_vllm(table.vllm, wanted),
    }
    listed = {route: one for route, one in found.items() if one is not None}
    dropped = {name.lower(): last for name, last in table.vllm.dropped.items()}
    return ModelSupport(architecture, building, listed, dropped.get(wanted))


def pytorch_architectures(version: str) -> frozenset[str]:
    """Returns the architectures of the PyTorch backend, without those that came after a release."""
    return frozenset(name for one in _known_by(version) for name in one.architectures)


def vllm_release() -> str:
    """Returns the release of vLLM that its list is of."""
    return _read().vllm.release


def _known_by(version: str) -> Iterator[_List]:
    order = [release.version for release in releases().values()]
    for one in _read().pytorch:
        if not one.added or order.index(one.release) <= order.index(version):
            yield one


def _first(lists: tuple[_List, ...], wanted: str) -> Listed | None:
    for one in lists:
        if wanted in {known.lower() for known in one.architectures}:
            return Listed(one.release, one.source, one.added)
    return None


def _by_vllm(table: _Vllm, wanted: str) -> Listed | None:
    for names, multimodal in ((table.text, False), (table.multimodal, True)):
        if wanted in {known.lower() for known in names}:
            return Listed(table.release, table.source, multimodal=multimodal)
    return None


@cache
def _read() -> _Table:
    return read_table(_TABLE, TypeAdapter(_Table))
