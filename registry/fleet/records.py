"""People's changes to the fleet's tables, and what nodes report, within one unit of work.

What people change (enrolment, labels, assignments) is in the audit log. What nodes report is not:
it is their word, and comes by the thousand; its history is in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.audit import Note
from registry.errors import ConflictError, RecordNotFoundError
from registry.fleet.pruning import PastTable, remove_batch
from registry.fleet.queries import FleetView
from registry.fleet.reports import close_history, take_reports, write_beats
from registry.fleet.tables import (
    AssignmentRow,
    DeviceRow,
    DriftIgnoreRow,
    HeartbeatRow,
    NodePlacementRow,
    NodeRow,
)
from registry.fleet.together import add_rows
from registry.fleet.types import Assignment, Beat, DriftIgnore, Node, NodeReport, TakenReport
from registry.models import PRUNED

NO_SEQUENCE = -1
"""Before the first message of a node; any that comes is newer."""


class FleetDraft(FleetView):
    """A view that also records; nothing is kept until its unit of work ends well."""

    def __init__(self, session: Session, note: Note) -> None:
        super().__init__(session)
        self._note = note

    def enroll(
        self, name: str, token: str, *, simulated: bool, labels: Mapping[str, str], at: datetime
    ) -> Node:
        """Enrols a node by the SHA-256 of its token; raises ConflictError if it is enrolled.

        A node that was retired is enrolled anew: its sequence starts over, its history stays.
        """
        row = self._session.scalar(select(NodeRow).where(NodeRow.name == name).with_for_update())
        if row is not None and row.retired_at is None:
            raise ConflictError(
                "the node is enrolled already",
                where=name,
                remedy="a new token for it: enginekeeper node enroll --again",
            )
        if row is None:
            row = NodeRow(name=name)
            self._session.add(row)
        row.token, row.simulated, row.labels = token, simulated, dict(labels)
        row.enrolled_at, row.retired_at = at, None
        self._session.flush()
        self._start_over(row)
        self._note("node enroll", name, {"simulated": simulated, "labels": dict(labels)})
        return self.node(name)

    def enroll_simulated(
        self, tokens: Mapping[str, str], *, labels: Mapping[str, str], at: datetime
    ) -> None:
        """Enrols simulated nodes that were never enrolled, in one entry of the audit log."""
        common = {"simulated": True, "labels": dict(labels), "enrolled_at": at}
        rows = [{"name": name, "token": token, **common} for name, token in tokens.items()]
        add_rows(self._session, NodeRow, rows)
        silent = select(NodeRow.id, NodeRow.name).where(
            ~NodeRow.id.in_(select(HeartbeatRow.node_id))
        )
        beats = [
            {
                "node_id": node, "earlier_boots": [], "sequence": NO_SEQUENCE,
                "name": name, "simulated": True,
            }
            for node, name in self._session.execute(silent)
        ]  # fmt: skip
        add_rows(self._session, HeartbeatRow, beats)
        self._note("node enroll", f"{len(tokens)} nodes", {"simulated": True})

    def renew(self, name: str, token: str) -> Node:
        """Gives an enrolled node a new token, and lets its sequence start over."""
        row = self._row(name)
        row.token = token
        self._session.flush()
        self._start_over(row)
        self._note("node enroll", name, {"again": True})
        return self.node(name)

    def relabel(self, name: str, labels: Mapping[str, str | None]) -> Node:
        """Sets labels of a node, and removes those that are None.

        They count with its next report, which the server asks for.
        """
        row = self._row(name)
        merged = {**row.labels, **labels}
        row.labels = {key: value for key, value in merged.items() if value is not None}
        row.state = None
        self._session.flush()
        self._note("node label", name, {"labels": dict(row.labels)})
        return self.node(name)

    def retire(self, name: str, at: datetime) -> Node:
        """Ends an enrolment: the token opens nothing, and what was on the node was until now."""
        row = self._row(name)
        row.retired_at, row.state, row.hardware = at, None, None
        row.profile_id = row.engine_set_id = None
        self._session.flush()
        close_history(self._session, [row.id], at)
        self._session.execute(
            update(NodePlacementRow)
            .where(NodePlacementRow.node_id == row.id, NodePlacementRow.until.is_(None))
            .values(until=at)
        )
        self._session.execute(delete(DeviceRow).where(DeviceRow.node_id == row.id))
        self._session.execute(
            update(HeartbeatRow).where(HeartbeatRow.node_id == row.id).values(driver=None)
        )
        self._note("node retire", name, {})
        return self.node(name)

    def beat(self, beats: Sequence[Beat]) -> None:
        """Writes when nodes were heard; one that is older than what was written changes nothing."""
        write_beats(self._session, beats)

    def take(self, reports: Sequence[NodeReport], at: datetime) -> list[TakenReport]:
        """Takes the inventories of different nodes; says of each what became of it."""
        return take_reports(self._session, reports, at)

    def begin_to_prune(self, before: datetime) -> None:
        """Records that nothing is known any more of before a time, and how much of it goes."""
        self._note(PRUNED, "history", {"before": before.isoformat(), **vars(self.past(before))})

    def prune_batch(
        self, table: PastTable, before: datetime, after: int, limit: int
    ) -> tuple[int, int | None]:
        """Removes the next rows of a table that ended before a time."""
        return remove_batch(self._session, table, before, after, limit)

    def assign(self, one: Assignment) -> bool:
        """Records what should run where; says whether that is new."""
        is_new = self._insert(
            AssignmentRow, selector=one.selector, model_name=one.model, channel=one.channel,
            actor=one.actor, assigned_at=one.assigned_at, container=one.container,
            container_at=one.container_at,
        )  # fmt: skip
        if is_new:
            said = {"model": one.model, "channel": one.channel, **_named(one.container)}
            self._note("assign", one.selector, said, actor=one.actor)
        return is_new

    def run_in(self, one: Assignment) -> bool:
        """Names the image that an assignment is to run in, None for any; says whether that is new.

        Raises RecordNotFoundError.
        """
        found = self._assigned(one.selector, one.model, one.channel)
        if found.container == one.container:
            return False
        found.container, found.container_at = one.container, one.container_at
        self._session.flush()
        said = {"model": one.model, "channel": one.channel, "container": one.container}
        self._note("assign container", one.selector, said, actor=one.actor)
        return True

    def unassign(self, selector: str, model: str, channel: str) -> None:
        """Removes an assignment; raises RecordNotFoundError."""
        self._session.delete(self._assigned(selector, model, channel))
        self._note("unassign", selector, {"model": model, "channel": channel})

    def ignore(self, rule: DriftIgnore) -> None:
        """Records drift that somebody wants; a rule for the same drift is replaced."""
        if (before := self._ignored(rule.kind, rule.selector)) is not None:
            self._session.delete(before)
            self._session.flush()
        self._insert(
            DriftIgnoreRow, kind=rule.kind, selector=rule.selector, reason=rule.reason,
            actor=rule.actor, expires_at=rule.expires_at, ignored_at=rule.ignored_at,
        )  # fmt: skip
        said = {"selector": rule.selector, "reason": rule.reason}
        self._note("drift ignore", rule.kind, said, actor=rule.actor)

    def heed(self, kind: str, selector: str) -> None:
        """Ends a rule by which drift is ignored; raises RecordNotFoundError."""
        found = self._ignored(kind, selector)
        if found is None:
            raise RecordNotFoundError(
                "no such drift is ignored",
                actual=f"{kind} on {selector}",
                remedy="enginekeeper drift rules",
            )
        self._session.delete(found)
        self._note("drift heed", kind, {"selector": selector})

    def _assigned(self, selector: str, model: str, channel: str) -> AssignmentRow:
        found = self._session.scalar(
            select(AssignmentRow)
            .where(
                AssignmentRow.selector == selector,
                AssignmentRow.model_name == model,
                AssignmentRow.channel == channel,
            )
            .with_for_update()
        )
        if found is None:
            raise RecordNotFoundError(
                "there is no such assignment",
                actual=f"{selector}: {channel} of {model}",
                remedy="enginekeeper assign list",
            )
        return found

    def _ignored(self, kind: str, selector: str) -> DriftIgnoreRow | None:
        query = select(DriftIgnoreRow)
        query = query.where(DriftIgnoreRow.kind == kind, DriftIgnoreRow.selector == selector)
        return self._session.scalar(query)

    def _row(self, name: str) -> NodeRow:
        query = select(NodeRow).where(NodeRow.name == name, NodeRow.retired_at.is_(None))
        row = self._session.scalar(query.with_for_update())
        if row is None:
            raise RecordNotFoundError(
                "no such node is enrolled", actual=name, remedy="enginekeeper nodes lists them"
            )
        return row

    def _start_over(self, node: NodeRow) -> None:
        """Lets the next message of a node be newer than anything."""
        row = self._session.get(HeartbeatRow, node.id)
        if row is None:
            row = HeartbeatRow(node_id=node.id)
            self._session.add(row)
        row.name, row.simulated = node.name, node.simulated
        row.sequence, row.boot_id, row.earlier_boots = NO_SEQUENCE, None, []
        self._session.flush()

    def _insert(self, table: type[AssignmentRow | DriftIgnoreRow], /, **values: object) -> bool:
        """Inserts a row; says whether there was none with its unique columns."""
        is_postgresql = self._session.get_bind().dialect.name == "postgresql"
        dialect = postgresql if is_postgresql else sqlite
        statement = dialect.insert(table).values(**values).on_conflict_do_nothing()
        return self._session.scalar(statement.returning(table.__table__.c.id)) is not None


def _named(container: str | None) -> dict[str, str]:
    return {} if container is None else {"container": container}
