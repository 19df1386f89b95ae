"""Known vulnerabilities of the releases that build engines, from NVIDIA's bulletins.

Rules:

- an advisory names a product (TensorRT-LLM, TensorRT) and the first version with the mend; every
  older one is affected, release candidates come before their release;
- the table says when it was read: what is not in it is not known here, not absent;
- a version that cannot be read is told as unknown, never as unaffected.

An engine built by such a release need not be unsafe itself: most of these are about servers. It
will be loaded by the release that built it, though, and that is what the list is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass as plain_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table
from registry.keys import EngineKey

_TABLE = Path(__file__).with_name("data") / "advisories.json"
_VERSION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9}){0,7})(?:rc([0-9]{1,9}))?")
_FINAL = 10**9
"""Stands behind every release candidate."""

_Version = Annotated[str, Field(pattern=f"^{_VERSION.pattern}$")]
Text = Annotated[str, Field(min_length=1)]


class Standing(StrEnum):
    """What an advisory means to a version."""

    AFFECTED = "affected"
    UNAFFECTED = "unaffected"
    UNKNOWN = "unknown"
    """The version cannot be read."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Advisory:
    """One vulnerability."""

    id: Annotated[str, Field(pattern=r"^CVE-[0-9]{4}-[0-9]{4,}$")]
    product: Literal["tensorrt_llm", "tensorrt"]
    """Also the key field that has the version."""

    fixed_in: _Version
    score: Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]
    """CVSS 3.1 base score."""

    what: Text
    source: Text
    """Key of the table's list of sources."""

    def about(self, version: object) -> Standing:
        """Says what it means to a version of its product."""
        found = _order(version)
        if found is None:
            return Standing.UNKNOWN
        affected = found < (_order(self.fixed_in) or ())
        return Standing.AFFECTED if affected else Standing.UNAFFECTED


@dataclass(frozen=True, kw_only=True, config=FORM)
class AdvisoryTable:
    """The table, with its sources and the day on which they were read."""

    schema: Literal[1]
    read_on: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    sources: dict[str, str]
    advisories: tuple[Advisory, ...]


@plain_dataclass(frozen=True)
class Concern:
    """An advisory that an engine's key gives reason to look at."""

    advisory: Advisory
    version: str
    """Of the advisory's product, as the key has it."""

    standing: Standing


@cache
def advisory_table() -> AdvisoryTable:
    """Returns the table; raises InputError where an id is twice or a source is not listed."""
    table = read_table(_TABLE, TypeAdapter(AdvisoryTable))
    if len({one.id for one in table.advisories}) != len(table.advisories):
        raise InputError("an id is there twice", where=str(_TABLE))
    if unlisted := {one.source for one in table.advisories} - set(table.sources):
        raise InputError(f"no source is called {', '.join(sorted(unlisted))}", where=str(_TABLE))
    return table


def concerns(key: EngineKey) -> tuple[Concern, ...]:
    """Returns what is known against the releases that an engine was built by, the gravest first."""
    found = [
        Concern(one, str(version), standing)
        for one in advisory_table().advisories
        if (version := key.hard.get(one.product)) is not None
        and (standing := one.about(version)) is not Standing.UNAFFECTED
    ]
    return tuple(sorted(found, key=lambda one: (-float(one.advisory.score), one.advisory.id)))


def _order(version: object) -> tuple[int, ...] | None:
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    padded = (*numbers, *([0] * (8 - len(numbers))))
    return (*padded, _FINAL if match[2] is None else int(match[2]))
