"""Takes what nodes report: many together, each whole or not at all, and only if it is news.

Rules:

- of a node nothing is taken that is older than what was taken before, by its sequence;
- what a report does not change is not written, and nothing is read node by node: however many
  reports come together, the number of statements is the same;
- what is not so any more is closed, never removed: history tells what ran when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.digests import digest_document
from registry.fleet.columns import of_columns
from registry.fleet.tables import (
    DeviceRow,
    EngineSetRow,
    HeartbeatRow,
    NodeDocumentRow,
    NodeHistoryRow,
    NodePlacementRow,
    NodeRow,
    ProfileRow,
)
from registry.fleet.together import add_rows, among, change_rows, is_postgresql
from registry.fleet.types import PROFILE_SCHEME, Beat, NodeReport, PlacedEngine, Taken, TakenReport

_DOCUMENTS = text(
    "INSERT INTO node_documents (node_id, document) SELECT node_id, document FROM "
    "unnest(CAST(:nodes AS integer[]), CAST(:documents AS bytea[])) AS given (node_id, document) "
    "ON CONFLICT (node_id) DO UPDATE SET document = excluded.document"
)
_UNWATCHED = {"synchronize_session": False}
"""No row is in the session as an object: nothing has to be found again."""


def write_beats(session: Session, beats: Sequence[Beat]) -> None:
    """Writes when nodes were heard; one that is older than what was written changes nothing."""
    change_rows(session, HeartbeatRow, "node_id", list(map(_beat, beats)), rising="sequence")


def _beat(one: Beat) -> dict[str, Any]:
    return {
        "node_id": one.node, "seen_at": one.seen_at, "sequence": one.sequence,
        "boot_id": one.boot_id, "earlier_boots": list(one.earlier_boots),
        "clock_offset": one.clock_offset,
    }  # fmt: skip


def _hear(session: Session, reports: Sequence[NodeReport]) -> None:
    """Writes that nodes were heard, and with which driver: once, so that a row moves once."""
    rows = [{**_beat(one.beat), "driver": one.driver} for one in reports]
    written = change_rows(session, HeartbeatRow, "node_id", rows, rising="sequence")
    if written != len(rows):  # a newer heartbeat was written meanwhile, and knows no driver
        drivers = [{"node_id": one.beat.node, "driver": one.driver} for one in reports]
        change_rows(session, HeartbeatRow, "node_id", drivers)


def take_reports(
    session: Session, reports: Sequence[NodeReport], at: datetime
) -> list[TakenReport]:
    """Takes the inventories of different nodes at a time; says of each what became of it."""
    known = _locked(session, [one.beat.node for one in reports])
    taken = [_became(one, known.get(one.beat.node)) for one in reports]
    became = list(zip(reports, taken, strict=True))
    _hear(session, [one for one, what in became if what in (Taken.RECORDED, Taken.KNOWN)])
    changed = [one for one, what in became if what is Taken.RECORDED]
    moved = _Recording(session, known, at).record(changed) if changed else {}
    return [
        TakenReport(what, moved.get(one.beat.node, known[one.beat.node].profile_id))
        if one.beat.node in known
        else TakenReport(what)
        for one, what in became
    ]


@dataclass(frozen=True)
class _Known:
    """What the catalogue has of a node while its report is taken."""

    id: int
    labels: Mapping[str, str]
    retired_at: datetime | None
    state: str | None
    hardware: str | None
    profile_id: int | None
    sequence: int


def _locked(session: Session, nodes: Sequence[int]) -> dict[int, _Known]:
    query = (
        select(
            NodeRow.id, NodeRow.labels, NodeRow.retired_at, NodeRow.state, NodeRow.hardware,
            NodeRow.profile_id, HeartbeatRow.sequence,
        )
        .join(HeartbeatRow, HeartbeatRow.node_id == NodeRow.id)
        .where(among(session, NodeRow.id, nodes))
        .order_by(NodeRow.id)  # so that two that take reports wait for each other in one order
        .with_for_update(of=NodeRow)
    )  # fmt: skip
    return {row.id: _Known(*row) for row in session.execute(query)}


def _became(report: NodeReport, known: _Known | None) -> Taken:
    if known is None or known.retired_at is not None:
        return Taken.GONE
    same = known.state == report.state
    if report.beat.sequence < known.sequence + (not same):
        return Taken.STALE
    return Taken.KNOWN if same else Taken.RECORDED


def _added(report: NodeReport, before: Iterable[PlacedEngine]) -> NodeReport:
    """Returns a report with the engines of before at places that it says nothing of."""
    told = {one.path for one in report.engines}
    untold = (one for one in before if one.path not in told)
    return replace(report, engines=(*report.engines, *untold))


@dataclass(frozen=True)
class _Recording:
    """Writes reports that are news."""

    session: Session
    known: Mapping[int, _Known]
    at: datetime

    def record(self, reports: Sequence[NodeReport]) -> dict[int, int]:
        """Writes them to every table; returns the rows of the profiles, by node."""
        reports = self._with_untold(reports)
        found = [one.profile_for(self.known[one.beat.node].labels) for one in reports]
        digests = [str(digest_document(one, PROFILE_SCHEME)) for one in found]
        profiles = self._rows_of(
            ProfileRow,
            {
                digest: {"driver": one.driver, "document": document}
                for one, document, digest in zip(reports, found, digests, strict=True)
            },
        )
        sets = self._rows_of(
            EngineSetRow,
            {
                one.engine_set_digest: {"document": one.engine_set, "images": one.images or None}
                for one in reports
            },
        )
        now = {
            one.beat.node: profiles[digest] for one, digest in zip(reports, digests, strict=True)
        }
        self._move(now)
        self._place(reports)
        self._equip(reports)
        self._keep(reports)
        rows = [
            {
                "id": one.beat.node, "state": one.state, "hardware": one.hardware,
                "profile_id": now[one.beat.node], "reported_at": self.at,
                "engine_set_id": sets[one.engine_set_digest],
            }
            for one in reports
        ]  # fmt: skip
        change_rows(self.session, NodeRow, "id", rows)
        return now

    def _rows_of(
        self, table: type[ProfileRow | EngineSetRow], wanted: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, int]:
        """Returns the rows of documents by their digests, made where there are none yet."""
        query = select(table.digest, table.id).where(table.digest.in_(wanted))
        found = {row.digest: row.id for row in self.session.execute(query)}
        missing = [
            {"digest": digest, **columns}
            for digest, columns in sorted(wanted.items())
            if digest not in found
        ]
        if missing:
            dialect = postgresql if is_postgresql(self.session) else sqlite
            self.session.execute(dialect.insert(table).on_conflict_do_nothing(), missing)
            found = {row.digest: row.id for row in self.session.execute(query)}
        return found

    def _move(self, profiles: Mapping[int, int]) -> None:
        """Closes the profile that a node had, and opens the one that it has."""
        moved: list[dict[str, Any]] = [
            {"node_id": node, "profile_id": profile, "since": self.at}
            for node, profile in profiles.items()
            if self.known[node].profile_id != profile
        ]
        if moved:
            close_history(self.session, [one["node_id"] for one in moved], self.at)
            add_rows(self.session, NodeHistoryRow, moved)

    def _with_untold(self, reports: Sequence[NodeReport]) -> list[NodeReport]:
        """Returns the reports with what lies there still, though it was not told.

        Where a node could not read all of its records it says nothing of some engines: a sweep goes
        by this, and so does what is missing there.
        """
        untold = [one.beat.node for one in reports if not one.engines_told]
        before = self._placements(untold) if untold else {}
        return [
            one if one.engines_told else _added(one, before.get(one.beat.node, ()))
            for one in reports
        ]

    def _place(self, reports: Sequence[NodeReport]) -> None:
        """Closes the placements that are no more, and opens those that are new."""
        open_rows = self._placements([one.beat.node for one in reports])
        gone: list[int] = []
        new: list[dict[str, Any]] = []
        for one in reports:
            before, now = open_rows.get(one.beat.node, {}), set(one.engines)
            gone += [row for placed, row in before.items() if placed not in now]
            new += [
                {
                    "node_id": one.beat.node, "engine": placed.engine, "path": placed.path,
                    "bytes": placed.bytes, "running": placed.running,
                    "devices": list(placed.devices) or None, "images": list(placed.images) or None,
                    "placed_at": placed.placed_at, "since": self.at,
                }
                for placed in one.engines
                if placed not in before
            ]  # fmt: skip
        if gone:
            closing = update(NodePlacementRow).where(among(self.session, NodePlacementRow.id, gone))
            self.session.execute(closing.values(until=self.at), execution_options=_UNWATCHED)
        add_rows(self.session, NodePlacementRow, new)

    def _placements(self, nodes: Sequence[int]) -> dict[int, dict[PlacedEngine, int]]:
        query = of_columns(
            NodePlacementRow.node_id, NodePlacementRow.id, NodePlacementRow.engine,
            NodePlacementRow.path, NodePlacementRow.bytes, NodePlacementRow.running,
            NodePlacementRow.devices, NodePlacementRow.images,
        )  # fmt: skip
        query = query.where(among(self.session, NodePlacementRow.node_id, nodes))
        rows: Iterable[Any] = self.session.execute(query.where(NodePlacementRow.until.is_(None)))
        found: dict[int, dict[PlacedEngine, int]] = {}
        for node, row, engine, path, state, running, devices, images in rows:
            seen, told = tuple(devices or ()), tuple(images or ())
            one = PlacedEngine(engine, path, state, running, seen, told)
            found.setdefault(node, {})[one] = row
        return found

    def _equip(self, reports: Sequence[NodeReport]) -> None:
        """Replaces the devices of nodes that have others than before."""
        changed = [one for one in reports if self.known[one.beat.node].hardware != one.hardware]
        if not changed:
            return
        nodes = [one.beat.node for one in changed]
        removing = delete(DeviceRow).where(among(self.session, DeviceRow.node_id, nodes))
        self.session.execute(removing, execution_options=_UNWATCHED)
        add_rows(self.session, DeviceRow, list(_devices(changed)))

    def _keep(self, reports: Sequence[NodeReport]) -> None:
        if is_postgresql(self.session):
            columns = {
                "nodes": [one.beat.node for one in reports],
                "documents": [one.document for one in reports],
            }
            self.session.execute(_DOCUMENTS, columns)
            return
        statement = sqlite.insert(NodeDocumentRow)
        statement = statement.on_conflict_do_update(
            index_elements=["node_id"], set_={"document": statement.excluded.document}
        )
        rows = [{"node_id": one.beat.node, "document": one.document} for one in reports]
        self.session.execute(statement, rows)


def close_history(session: Session, nodes: Sequence[int], at: datetime) -> None:
    """Says of nodes that they have the profile they had no more."""
    closing = update(NodeHistoryRow).where(
        among(session, NodeHistoryRow.node_id, nodes), NodeHistoryRow.until.is_(None)
    )
    session.execute(closing.values(until=at), execution_options=_UNWATCHED)


def _devices(reports: Sequence[NodeReport]) -> Iterator[dict[str, Any]]:
    for report in reports:
        for one in report.devices:
            yield {"node_id": report.beat.node, **vars(one)}
