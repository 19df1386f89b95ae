"""For how long things were so: the intervals of profiles and of engines, of some nodes.

What is so now may be of several intervals: a report that changes something else (a label, the GPU
that a process is on) closes one and opens the next at the same moment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from registry.fleet.columns import ColumnReader, as_text, documents, of_columns, portions
from registry.fleet.tables import NodeHistoryRow, NodePlacementRow, NodeRow
from registry.models import EngineRow, EnvironmentRow, VerdictRow

_SOME = 5_000
"""Nodes, and engines, that one statement names together."""


class ProfileSpan(NamedTuple):
    """A node had a profile."""

    node: str
    profile: int
    since: datetime
    until: datetime | None


class EngineSpan(NamedTuple):
    """An engine was on a node, in one state."""

    node: str
    engine: str
    bytes: str | None
    running: str | None
    images: list[str | None] | None
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Telling:
    """An interval, and whether anything was told in it: where not, nothing is known to change."""

    since: datetime
    until: datetime | None
    tells: bool = True


def held_since(spans: Iterable[Telling]) -> datetime | None:
    """Returns since when something is so without a gap; None where it is not so now."""
    newest_first = sorted(spans, key=lambda one: (one.until is None, one.until), reverse=True)
    begun: datetime | None = None
    edge: datetime | None = None
    for one in newest_first:
        if one.until is not None and (edge is None or one.until < edge):
            break
        edge = one.since if edge is None else min(edge, one.since)
        begun = edge if one.tells else begun
    return begun


class FleetSpans(ColumnReader):
    """Intervals of the fleet."""

    def profile_spans(self, nodes: Iterable[str]) -> Iterator[ProfileSpan]:
        """Yields every interval in which some nodes had a profile."""
        query = of_columns(
            NodeRow.name, NodeHistoryRow.profile_id, NodeHistoryRow.since, NodeHistoryRow.until
        ).join(NodeHistoryRow, NodeHistoryRow.node_id == NodeRow.id)
        for names in portions(sorted(set(nodes))):
            yield from map(ProfileSpan._make, self._rows(query.where(NodeRow.name.in_(names))))

    def engine_spans(self, pairs: Collection[tuple[str, str]]) -> Iterator[EngineSpan]:
        """Yields every interval in which engines were on nodes, for pairs of node and engine."""
        query = of_columns(
            NodeRow.name, NodePlacementRow.engine, NodePlacementRow.bytes,
            NodePlacementRow.running, NodePlacementRow.images, NodePlacementRow.since,
            NodePlacementRow.until,
        ).join(NodeRow, NodeRow.id == NodePlacementRow.node_id)  # fmt: skip
        asked = set(pairs)
        for names in _portions({node for node, _ in asked}):
            of_nodes = query.where(NodeRow.name.in_(names))
            for engines in _portions({engine for node, engine in asked if node in names}):
                for row in self._rows(of_nodes.where(NodePlacementRow.engine.in_(engines))):
                    if (row[0], row[1]) in asked:
                        yield EngineSpan(*row)

    def verdict_moments(self, engines: Collection[str]) -> Iterator[tuple[str, Any, str, datetime]]:
        """Yields engine, document of the environment, result, and when it was said, newest first.

        Engines are those of the catalogue.
        """
        query = (
            of_columns(
                EngineRow.digest, as_text(EnvironmentRow.document), VerdictRow.result,
                VerdictRow.issued_at,
            )
            .join(EngineRow, EngineRow.id == VerdictRow.engine_id)
            .join(EnvironmentRow, EnvironmentRow.id == VerdictRow.environment_id)
            .order_by(VerdictRow.id.desc())
        )  # fmt: skip
        for names in portions(sorted(set(engines))):
            rows = list(self._rows(query.where(EngineRow.digest.in_(names))))
            read = documents(document for _, document, _, _ in rows)
            for (engine, _, result, at), document in zip(rows, read, strict=True):
                yield str(engine), document, result, at


def _portions(values: set[str]) -> Iterator[set[str]]:
    ordered = sorted(values)
    for start in range(0, len(ordered), _SOME):
        yield set(ordered[start : start + _SOME])
