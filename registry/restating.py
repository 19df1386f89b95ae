"""What is recorded as signed of engines, held against the store, and put back where it was lost.

A statement is kept twice: in a row, and beside its engine. Rows that were lost come back from the
store (`registry.beside`); this is the other way round, while the row is still there.

Example:
    for engine, said in recorded_statements(registry.catalogue, engines):
        for lost in restate(statements_of(registry.store, engine), engine, said):
            print(lost.name, "was missing or damaged, and is there again")
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from registry import layout
from registry.catalogue import Catalogue
from registry.digests import Digest, digest_bytes
from registry.statements import Statements
from registry.trust import Purpose
from registry.types import Engine

Said: TypeAlias = tuple[str, bytes]
"""The kind of a statement, and its envelope."""
_PAGE = 500
"""Engines whose envelopes are held in memory at once."""


@dataclass(frozen=True)
class Restated:
    """A statement that the store had lost or damaged, and has again."""

    kind: str
    name: str
    """Where it lies."""
    digest: Digest
    damaged: bool
    """Whether other bytes lay there; else nothing did."""


def recorded_statements(
    catalogue: Catalogue, engines: Sequence[Engine]
) -> Iterator[tuple[Engine, list[Said]]]:
    """Yields each engine with what is recorded as signed of it: how it was built, what was said."""
    for start in range(0, len(engines), _PAGE):
        page = engines[start : start + _PAGE]
        said = defaultdict[Digest, list[Said]](list)
        with catalogue.read() as view:
            for engine, kind, envelope in view.signed([one.digest for one in page]):
                said[engine].append((kind, envelope.encode()))
        for one in page:
            yield one, said[one.digest]


def restate(beside: Statements, engine: Engine, said: Sequence[Said]) -> Iterator[Restated]:
    """Puts back what is lost beside an engine of what is recorded as signed of it; yields each.

    Reads every statement once.
    """
    for kind, envelope in said:
        name = beside.place(engine.digest, kind, envelope)
        yield from _settled(beside, kind, envelope, name)
    built = engine.provenance.encode()
    name = layout.attestation_name(engine.path, Purpose.BUILD, digest_bytes(built))
    yield from _settled(beside, Purpose.BUILD, built, name)


def _settled(beside: Statements, kind: str, envelope: bytes, name: str) -> Iterator[Restated]:
    found = beside.read(name) if name in beside.placed.values() else None
    if found != envelope:
        beside.store.put_document(name, envelope, if_absent=False)
        yield Restated(kind, name, digest_bytes(envelope), damaged=found is not None)
