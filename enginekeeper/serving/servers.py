"""What servers of TensorRT engines are told, by release: a table of facts, each with its source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

_TABLE = Path(__file__).with_name("data") / "servers.json"


@dataclass(frozen=True, kw_only=True, config=FORM)
class ServeRow:
    """How `trtllm-serve` is told to load a TensorRT engine, in some releases."""

    releases: tuple[str, ...]
    backend: str | None
    """Value of `--backend`; None where engines are what it loads unless told otherwise."""

    source: str
    verified: bool = True
    note: str | None = None


@dataclass(frozen=True, kw_only=True, config=FORM)
class TritonTensor:
    """An input or output of Triton's model."""

    name: str
    type: Literal["INT32", "FP32", "UINT64", "BOOL", "LOGITS"]
    """`LOGITS` is the type of the engine's own logits."""

    dims: tuple[int, ...]
    scalar: bool = False
    """One value a request, which the backend takes without its dimension."""

    optional: bool = False
    ragged: bool = False


@dataclass(frozen=True, kw_only=True, config=FORM)
class TritonFacts:
    """The interface of the TensorRT-LLM backend's model."""

    source: str
    inputs: tuple[TritonTensor, ...]
    outputs: tuple[TritonTensor, ...]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Servers:
    """The whole table."""

    schema: Literal[1]
    sources: dict[str, str]
    trtllm_serve: tuple[ServeRow, ...]
    triton: TritonFacts


@cache
def servers() -> Servers:
    """Returns the table; raises InputError for a source that is not listed."""
    table = read_table(_TABLE, TypeAdapter(Servers))
    named = {row.source for row in table.trtllm_serve} | {table.triton.source}
    if unknown := named - set(table.sources):
        raise InputError(f"no source is called {unknown}", where=str(_TABLE))
    return table


def serve_row(version: str) -> ServeRow:
    """Returns what `trtllm-serve` of a release is told; raises InputError for an unknown one."""
    rows = servers().trtllm_serve
    found = next((row for row in rows if version in row.releases), None)
    if found is None:
        known = [version for row in rows for version in row.releases]
        raise InputError(
            "nothing is known of how this release serves engines",
            actual=version, expected=f"one of {', '.join(known)}",
            remedy="a release without the TensorRT backend serves no engine; others: add a row to "
            f"{_TABLE.name}",
        )  # fmt: skip
    return found
