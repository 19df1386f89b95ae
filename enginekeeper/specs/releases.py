"""Releases of TensorRT-LLM: what each is made of, can do and needs, every fact with its source.

The table is `data/trtllm_releases.json`. A fact that nobody has verified says so and stays so: it
may be shown, it may warn, it must not be the only reason to refuse.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

_TABLE = Path(__file__).with_name("data") / "trtllm_releases.json"

Value = TypeVar("Value")


class EngineBackend(StrEnum):
    """What became of the TensorRT backend in a release."""

    YES = "yes"
    LEGACY = "legacy"
    """It is there, and the PyTorch backend is the default."""

    DEPRECATED = "deprecated"
    """It is there and warns that it will go."""

    REMOVED = "removed"
    """There is no `trtllm-build`: no engine can be built."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Fact(Generic[Value]):
    """One thing that is said of a release."""

    value: Value
    source: str
    """Key of the table's list of sources."""

    verified: bool = True
    note: str | None = None


@dataclass(frozen=True, kw_only=True, config=FORM)
class ReleaseFacts:
    """Versions a release is bound to; a value of None is not known, or there is none."""

    tensorrt: Fact[str | None]
    cuda: Fact[str | None]
    """CUDA runtime, `major.minor`, or `major` where only that is known."""

    torch: Fact[str | None]
    transformers: Fact[str | None]
    modelopt: Fact[str | None]
    base_image: Fact[str | None]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Release:
    """One release of TensorRT-LLM."""

    name: str
    """What a spec calls it: `tensorrt-llm-1.2.1`."""

    version: str
    engines: Fact[EngineBackend]
    facts: ReleaseFacts
    compute_capabilities: Fact[tuple[str, ...]]
    """Those the release has kernels for."""

    architectures: Fact[tuple[str, ...]]
    """Names of the table's sets of Hugging Face architectures that it builds engines of."""

    @property
    def builds_engines(self) -> bool:
        """Says whether the release has `trtllm-build` at all."""
        return self.engines.value is not EngineBackend.REMOVED

    @property
    def is_prerelease(self) -> bool:
        """Says whether it is a release candidate."""
        return "rc" in self.version

    @property
    def architecture_names(self) -> frozenset[str]:
        """The architectures of its sets."""
        sets = _read().architecture_sets
        return frozenset(name for key in self.architectures.value for name in sets[key])

    def every_fact(self) -> dict[str, Fact[object]]:
        """Returns all facts by name, in the order in which they are shown."""
        named = {name: getattr(self.facts, name) for name in ReleaseFacts.__dataclass_fields__}
        return {
            "engines": self.engines,
            **named,
            "compute_capabilities": self.compute_capabilities,
            "architectures": self.architectures,
        }


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Table:
    schema: Literal[1]
    sources: dict[str, str]
    architecture_sets: dict[str, tuple[str, ...]]
    releases: tuple[Release, ...]


@cache
def releases() -> dict[str, Release]:
    """Returns the table by the name a spec uses, the oldest first."""
    table = _read()
    for release in table.releases:
        if unknown := {fact.source for fact in release.every_fact().values()} - set(table.sources):
            raise InputError(f"{release.name}: no source is called {unknown}", where=str(_TABLE))
        if unknown := set(release.architectures.value) - set(table.architecture_sets):
            raise InputError(f"{release.name}: no set is called {unknown}", where=str(_TABLE))
    return {release.name: release for release in table.releases}


def newest_stable_with_engines() -> Release:
    """Returns the last release that builds engines and is no pre-release."""
    return _with_engines(prerelease=False)[-1]


def releases_with_engines() -> str:
    """Says which releases build engines: `up to 1.2.1 (pre-releases: up to 1.3.0rc20)`."""
    stable = newest_stable_with_engines().version
    early = _with_engines(prerelease=True)
    return f"up to {stable}" + (f" (pre-releases: up to {early[-1].version})" if early else "")


def _with_engines(*, prerelease: bool) -> list[Release]:
    building = [one for one in releases().values() if one.builds_engines]
    return [one for one in building if one.is_prerelease is prerelease]


def fact_source(fact: Fact[object]) -> str:
    """Returns who says it."""
    return _read().sources[fact.source]


@cache
def _read() -> _Table:
    return read_table(_TABLE, TypeAdapter(_Table))
