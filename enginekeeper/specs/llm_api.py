"""How each release of TensorRT-LLM is asked from Python and over HTTP: a table, with its sources.

Only what Enginekeeper asks for is in it. A name that a release does not know ends its constructor,
after minutes of loading: so names are held against the table before anything is started.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

__all__ = [
    "Backend", "LlmInterface", "ServeInterface", "interface_of", "releases_with",
    "serve_interface_of",
]  # fmt: skip

_TABLE = Path(__file__).with_name("data") / "trtllm_llm_api.json"

Backend = Literal["engine", "pytorch"]
"""What runs behind the interface: a TensorRT engine, or the PyTorch backend."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class LlmInterface:
    """The Python interface of one backend."""

    module: str
    """Where its class `LLM` is imported from."""

    arguments: tuple[str, ...]
    """Names that its constructor takes, as far as they are used here."""

    source: str
    verified: bool = True

    def accepting(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments; raises InputError for one that the constructor does not take."""
        if unknown := sorted(arguments.keys() - set(self.arguments)):
            raise InputError(
                f"the LLM class of {self.module} takes no {', '.join(unknown)} in this release",
                where="arguments of LLM()",
                actual=", ".join(unknown),
                expected=", ".join(self.arguments),
            )
        return arguments


@dataclass(frozen=True, kw_only=True, config=FORM)
class ServeInterface:
    """What `trtllm-serve` answers to completions."""

    logprobs: bool
    """Whether log-probabilities of the tokens it chose are given; else they are refused."""

    source: str


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Row:
    releases: tuple[str, ...]
    engine: LlmInterface | None
    pytorch: LlmInterface | None
    serve: ServeInterface


@dataclass(frozen=True, kw_only=True, config=FORM)
class _Table:
    schema: Literal[1]
    sources: dict[str, str]
    interfaces: tuple[_Row, ...]


def interface_of(version: str, backend: Backend) -> LlmInterface:
    """Returns a release's interface; raises InputError where it has no such backend."""
    found = _row(version).engine if backend == "engine" else _row(version).pytorch
    if found is None:
        raise InputError(
            f"TensorRT-LLM {version} has no interface to the {backend} backend",
            expected="engine: up to 1.3.0rc20; pytorch: 1.0.0 and later",
        )
    return found


def releases_with(backend: Backend) -> tuple[str, ...]:
    """Returns the versions that are known to have an interface to a backend, the oldest first."""
    return tuple(
        version
        for row in _table().interfaces
        for version in row.releases
        if (row.engine if backend == "engine" else row.pytorch) is not None
    )


def serve_interface_of(version: str) -> ServeInterface:
    """Returns what `trtllm-serve` of a release answers."""
    return _row(version).serve


def _row(version: str) -> _Row:
    rows = _table().interfaces
    found = next((row for row in rows if version in row.releases), None)
    if found is None:
        raise InputError(
            "nothing is known of how this release is asked",
            actual=version,
            expected=", ".join(one for row in rows for one in row.releases),
            remedy=f"add it to {_TABLE.name}, with a source",
        )
    return found


@cache
def _table() -> _Table:
    table = read_table(_TABLE, TypeAdapter(_Table))
    named = {
        one.source
        for row in table.interfaces
        for one in (row.engine, row.pytorch, row.serve)
        if one is not None
    }
    if unknown := named - set(table.sources):
        raise InputError(f"no source is called {unknown}", where=str(_TABLE))
    return table
