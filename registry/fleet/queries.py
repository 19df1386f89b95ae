"""Questions about the fleet, answered with values in a fixed number of statements each."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, func, select
from sqlalchemy.orm import InstrumentedAttribute

from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.filters import values_of
from registry.fleet.columns import as_text, documents_by_row, of_columns, portions
from registry.fleet.engines import FleetEngines
from registry.fleet.pruning import Past, horizon, past
from registry.fleet.spans import FleetSpans
from registry.fleet.tables import (
    AssignmentRow,
    DeviceRow,
    DriftIgnoreRow,
    EngineSetRow,
    HeartbeatRow,
    NodeDocumentRow,
    NodeHistoryRow,
    NodePlacementRow,
    NodeRow,
    ProfileRow,
)
from registry.fleet.together import among
from registry.fleet.types import (
    Assignment,
    DriftIgnore,
    FleetState,
    Interval,
    Node,
    NodeDevice,
    Placed,
    PlacedEngine,
    WhereFilter,
)
from registry.models import AuditRow, EngineRow, UtcDateTime
from registry.types import Placement

_COLUMNS = of_columns(
    NodeRow.id, NodeRow.name, NodeRow.token, NodeRow.simulated, NodeRow.labels,
    NodeRow.enrolled_at, NodeRow.retired_at, NodeRow.state, NodeRow.reported_at,
    NodeRow.profile_id, NodeRow.engine_set_id, HeartbeatRow.sequence, HeartbeatRow.boot_id,
    HeartbeatRow.earlier_boots, HeartbeatRow.seen_at, HeartbeatRow.clock_offset,
).join(HeartbeatRow, HeartbeatRow.node_id == NodeRow.id)  # fmt: skip
_NODE = _COLUMNS.where(NodeRow.name == bindparam("name"))
_DEVICES = of_columns(
    DeviceRow.uuid, DeviceRow.position, DeviceRow.product, DeviceRow.compute_capability,
    DeviceRow.profile,
).where(DeviceRow.node_id == bindparam("node")).order_by(
    DeviceRow.position, DeviceRow.uuid
)  # fmt: skip
_ENGINES_ON = of_columns(
    NodePlacementRow.engine, NodePlacementRow.path, NodePlacementRow.bytes,
    NodePlacementRow.running, NodePlacementRow.devices, NodePlacementRow.images,
    NodePlacementRow.placed_at,
).where(
    NodePlacementRow.node_id == bindparam("node"), NodePlacementRow.until.is_(None)
).order_by(NodePlacementRow.path)  # fmt: skip


class FleetView(FleetEngines, FleetSpans):
    """The fleet in one state of the catalogue."""

    def node(self, name: str) -> Node:
        """Returns an enrolled node; raises RecordNotFoundError."""
        found = self.known_node(name)
        if found is None:
            raise RecordNotFoundError(
                "there is no such node", actual=name, remedy="enginekeeper nodes lists them"
            )
        return found

    def known_node(self, name: str) -> Node | None:
        """Returns an enrolled node, or None; a retired one is still known."""
        return next(iter(self._nodes(_NODE, {"name": name})), None)

    def nodes(self, *, retired: bool = False) -> list[Node]:
        """Returns the nodes by name, those that were retired only if asked for."""
        query = _COLUMNS if retired else _COLUMNS.where(NodeRow.retired_at.is_(None))
        return list(self._nodes(query.order_by(NodeRow.name)))

    def document(self, node: Node) -> bytes | None:
        """Returns the inventory a node reported last, as JSON; None before the first."""
        query = select(NodeDocumentRow.document).where(NodeDocumentRow.node_id == node.id)
        found = self._session.scalar(query)
        return None if found is None else zlib.decompress(found)

    def devices(self, node: Node) -> list[NodeDevice]:
        """Returns the GPUs of a node, and their slices, by position."""
        return [NodeDevice(*row) for row in self._rows(_DEVICES, {"node": node.id})]

    def engines_on(self, node: Node) -> list[PlacedEngine]:
        """Returns the engines a node has now, by path."""
        return [
            PlacedEngine(
                engine, path, state, running, tuple(devices or ()), tuple(images or ()), placed_at
            )
            for engine, path, state, running, devices, images, placed_at in self._rows(
                _ENGINES_ON, {"node": node.id}
            )
        ]

    def placed_now(self, engine: Digest | None = None) -> Iterator[Placement]:
        """Yields where agents say that engines of the catalogue lie or run, by node and path.

        What a silent node said last counts until it is retired: nobody said otherwise.
        """
        query = (
            of_columns(
                NodeRow.name, NodePlacementRow.path, EngineRow.digest, NodePlacementRow.since
            )
            .join(NodeRow, NodeRow.id == NodePlacementRow.node_id)
            .join(EngineRow, EngineRow.digest == NodePlacementRow.engine)
            .where(NodePlacementRow.until.is_(None))
            .order_by(NodeRow.name, NodePlacementRow.path)
        )
        if engine is not None:
            query = query.where(NodePlacementRow.engine == str(engine))
        for name, path, digest, since in self._rows(query):
            yield Placement(name, path, digest, since)

    def history(self, node: Node) -> list[Interval]:
        """Returns which profiles a node had, newest first."""
        query = (
            of_columns(
                NodeHistoryRow.since, NodeHistoryRow.until, ProfileRow.driver, ProfileRow.document
            )
            .join(ProfileRow, ProfileRow.id == NodeHistoryRow.profile_id)
            .where(NodeHistoryRow.node_id == node.id)
            .order_by(NodeHistoryRow.id.desc())
        )
        return [Interval(*row) for row in self._rows(query)]

    def where(self, wanted: WhereFilter) -> list[Placed]:
        """Returns which engines are, or were, on which nodes, by node and path."""
        asked = {name for name, value in vars(wanted).items() if value is not None}
        given = {name: value for name, value in vars(wanted).items() if name in asked}
        if wanted.engine_start is not None:
            given["engine_end"] = f"{wanted.engine_start}g"  # `g` follows the last digit
        if wanted.driver is not None:
            given["driver"] = wanted.driver.of(values_of(ProfileRow.driver, self._session))
        rows = self._tuples(_placed(frozenset(asked)), given)
        if wanted.engine is not None:  # whoever asks knows it: it is half of what a row is
            rows = [(*row, wanted.engine) for row in rows]
        found = list(map(Placed._make, rows))
        found.sort(key=attrgetter("path"))
        found.sort(key=attrgetter("node"))  # keeps the order of paths
        return found

    def profiles_amiss(
        self, before: datetime, seconds: int
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Returns by profile how many nodes were not heard since a time, and how many are off.

        Those that were heard since then are off whose clock is so, by more than so many seconds.
        """
        unheard = HeartbeatRow.seen_at < before
        # without abs(): then the database knows how few they are
        off = (HeartbeatRow.clock_offset > seconds) | (HeartbeatRow.clock_offset < -seconds)
        off &= HeartbeatRow.seen_at >= before
        counts = (func.count(case((one, 1))) for one in (unheard, off))
        query = (
            of_columns(NodeRow.profile_id, *counts)
            .join(HeartbeatRow, HeartbeatRow.node_id == NodeRow.id)
            .where(unheard | off, NodeRow.retired_at.is_(None), NodeRow.profile_id.is_not(None))
            .group_by(NodeRow.profile_id)
        )
        rows = list(self._rows(query))
        return (
            {row: silent for row, silent, _ in rows if silent},
            {row: wrong for row, _, wrong in rows if wrong},
        )

    def any_node(self) -> bool:
        """Says whether any node was ever enrolled."""
        return self._session.scalar(select(NodeRow.id).limit(1)) is not None

    def silent(self) -> list[tuple[str, bool]]:
        """Returns the nodes that never reported, by name, and whether each is simulated."""
        query = of_columns(NodeRow.name, NodeRow.simulated).where(
            NodeRow.retired_at.is_(None), NodeRow.profile_id.is_(None)
        )
        return [(name, simulated) for name, simulated in self._rows(query.order_by(NodeRow.name))]

    def unheard_since(self, moment: datetime) -> dict[str, tuple[dict[str, str], bool]]:
        """Returns the nodes enrolled by then that never reported: labels, and if simulated."""
        query = of_columns(NodeRow.name, NodeRow.labels, NodeRow.simulated)
        query = query.where(NodeRow.retired_at.is_(None), NodeRow.profile_id.is_(None))
        query = query.where(NodeRow.enrolled_at <= moment)
        return {name: (labels, simulated) for name, labels, simulated in self._rows(query)}

    def states(self) -> list[FleetState]:
        """Returns how many enrolled nodes are in each state: the whole fleet, counted."""
        query = (
            of_columns(NodeRow.profile_id, NodeRow.engine_set_id, func.count())
            .where(NodeRow.profile_id.is_not(None))  # a retired one has none: an index knows all
            .group_by(NodeRow.profile_id, NodeRow.engine_set_id)
        )
        return [FleetState(*row) for row in self._rows(query)]

    def members(self) -> list[tuple[str, int, int, datetime | None]]:
        """Returns every node that has reported, by name, and when it was heard last.

        Between them: the rows of its profile and of its engines.
        """
        query = of_columns(
            HeartbeatRow.name, NodeRow.profile_id, NodeRow.engine_set_id, HeartbeatRow.seen_at
        ).join(NodeRow, NodeRow.id == HeartbeatRow.node_id)
        query = query.where(NodeRow.retired_at.is_(None), NodeRow.profile_id.is_not(None))
        found: list[Any] = list(self._tuples(query, {}))
        found.sort(key=itemgetter(0))
        return found

    def profiles(self, rows: Iterable[int] | None = None) -> dict[int, dict[str, Any]]:
        """Returns the profiles of some rows, or those that nodes have now."""
        query = of_columns(ProfileRow.id, as_text(ProfileRow.document))
        return documents_by_row(self._by_row(query, ProfileRow.id, NodeRow.profile_id, rows))

    def engine_sets(self, rows: Iterable[int] | None = None) -> dict[int, list[Any]]:
        """Returns the engines of some rows, or those that nodes have now."""
        query = of_columns(EngineSetRow.id, as_text(EngineSetRow.document))
        return documents_by_row(self._by_row(query, EngineSetRow.id, NodeRow.engine_set_id, rows))

    def images(self, rows: Iterable[int]) -> dict[int, list[tuple[str, str | None]]]:
        """Returns engine and image of what runs, by the rows of sets; absent if none was told."""
        query = select(EngineSetRow.id, EngineSetRow.images)
        query = query.where(EngineSetRow.images.is_not(None))
        found = self._by_row(query, EngineSetRow.id, NodeRow.engine_set_id, rows)
        return {row: [(engine, image) for engine, image in told] for row, told in found}

    def heard(self) -> list[datetime | None]:
        """Returns when each enrolled node was heard last."""
        query = select(HeartbeatRow.seen_at).join(NodeRow, NodeRow.id == HeartbeatRow.node_id)
        return list(self._session.scalars(query.where(NodeRow.retired_at.is_(None))))

    def assignments(self) -> list[Assignment]:
        """Returns what should run where, in the order of models, channels and selectors."""
        query = of_columns(
            AssignmentRow.selector, AssignmentRow.model_name, AssignmentRow.channel,
            AssignmentRow.actor, AssignmentRow.assigned_at, AssignmentRow.container,
            AssignmentRow.container_at,
        ).order_by(
            AssignmentRow.model_name, AssignmentRow.channel, AssignmentRow.selector
        )  # fmt: skip
        return [Assignment(*row) for row in self._rows(query)]

    def ignores(self) -> list[DriftIgnore]:
        """Returns the drift that somebody wants, expired rules too."""
        query = select(DriftIgnoreRow).order_by(DriftIgnoreRow.kind, DriftIgnoreRow.selector)
        return [
            DriftIgnore(
                row.kind, row.selector, row.reason, row.actor, row.expires_at, row.ignored_at
            )
            for row in self._session.scalars(query)
        ]

    def past(self, before: datetime) -> Past:
        """Counts what ended before a time: what `prune` would remove."""
        return past(self._session, before)

    def horizon(self) -> datetime | None:
        """Returns before which time nothing is known any more; None where nothing was pruned."""
        return horizon(self._session)

    def last_change(self) -> int:
        """Returns the number of the last entry of the audit log, 0 before the first."""
        return self._session.scalar(select(func.max(AuditRow.id))) or 0

    def nodes_changed_after(self, entry: int) -> set[str]:
        """Returns what entries of the audit log after one say of nodes: whom people changed."""
        query = select(AuditRow.subject).where(AuditRow.id > entry)
        nodes = AuditRow.action.in_(("node enroll", "node label", "node retire"))
        return set(self._session.scalars(query.where(nodes)))

    def _nodes(self, query: Select[Any], given: Mapping[str, Any] | None = None) -> Iterator[Node]:
        return (Node(*row) for row in self._rows(query, given))

    def _by_row(
        self,
        query: Select[Any],
        column: InstrumentedAttribute[int],
        used: InstrumentedAttribute[int | None],
        rows: Iterable[int] | None,
    ) -> Iterator[Any]:
        if rows is None:
            now = select(used).where(NodeRow.retired_at.is_(None), used.is_not(None)).distinct()
            yield from self._rows(query.where(column.in_(now)))
            return
        for portion in portions(sorted(set(rows))):
            yield from self._rows(query.where(among(self._session, column, portion)))


@lru_cache(maxsize=256)  # to make it again takes as long as to ask it
def _placed(asked: frozenset[str]) -> Select[Any]:
    """Returns the query of placements at a time, joined to what the node was then.

    Its parameters have the names of the fields of WhereFilter that are asked.
    """
    simulated = _SIMULATED_THEN if "at" in asked else HeartbeatRow.simulated
    driver = ProfileRow.driver if "at" in asked else HeartbeatRow.driver
    query = of_columns(
        HeartbeatRow.name, simulated, NodePlacementRow.path, NodePlacementRow.bytes,
        NodePlacementRow.running, NodePlacementRow.devices, NodePlacementRow.since,
        NodePlacementRow.until, driver, HeartbeatRow.seen_at,
        *([] if "engine" in asked else [NodePlacementRow.engine]),
    )  # fmt: skip
    query = query.join(HeartbeatRow, HeartbeatRow.node_id == NodePlacementRow.node_id)
    if asked & {"node", "driver"}:  # by whose indexes nodes are found
        query = query.join(NodeRow, NodeRow.id == NodePlacementRow.node_id)
    if "at" in asked:
        then = (NodeHistoryRow.node_id == NodePlacementRow.node_id) & _at(NodeHistoryRow)
        query = query.outerjoin(NodeHistoryRow, then)
        query = query.outerjoin(ProfileRow, ProfileRow.id == NodeHistoryRow.profile_id)
        query = query.where(_at(NodePlacementRow))
    else:
        query = query.where(NodePlacementRow.until.is_(None))
        if "driver" in asked:
            query = query.join(ProfileRow, ProfileRow.id == NodeRow.profile_id)
    query = query.where(*(_CONDITIONS[name] for name in sorted(asked & _CONDITIONS.keys())))
    if "simulated" in asked:
        query = query.where(simulated == bindparam("simulated"))
    if "limit" in asked:
        query = query.order_by(HeartbeatRow.name, NodePlacementRow.path)
        query = query.limit(bindparam("limit", type_=Integer))
    return query


_SIMULATED_THEN = func.coalesce(
    ProfileRow.document["simulated"].as_boolean(), HeartbeatRow.simulated
)
"""Whether a node was simulated at a time: it may have been retired, and enrolled anew otherwise."""
_CONDITIONS: Mapping[str, ColumnElement[bool]] = {
    "node": NodeRow.name == bindparam("node"),
    "engines": NodePlacementRow.engine.in_(bindparam("engines", expanding=True)),
    "engine": NodePlacementRow.engine == bindparam("engine"),
    # a range, so that the index is used; how much is in it is guessed anew for each question
    "engine_start": (NodePlacementRow.engine >= bindparam("engine_start"))
    & (NodePlacementRow.engine < bindparam("engine_end")),
    "gpu_uuid": NodePlacementRow.node_id.in_(
        select(DeviceRow.node_id).where(DeviceRow.uuid == bindparam("gpu_uuid"))
    ),
    "driver": ProfileRow.driver.in_(bindparam("driver", expanding=True)),
}


def _at(table: type[NodePlacementRow | NodeHistoryRow]) -> ColumnElement[bool]:
    moment = bindparam("at", type_=UtcDateTime)
    return (table.since <= moment) & (table.until.is_(None) | (table.until > moment))
