"""Questions about waves, answered with values in a fixed number of statements."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.errors import RecordNotFoundError
from registry.waves.tables import WaveNodeRow, WaveRow, WaveWorkRow
from registry.waves.types import (
    ENDED,
    Origin,
    Phase,
    Role,
    Stage,
    Terms,
    Wave,
    WaveNode,
    WaveWork,
    WorkState,
)

TOGETHER = 10_000
"""Names that one statement lists; SQLite takes 32766 parameters."""


class WaveView:
    """The waves in one state of the catalogue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def wave(self, name: str) -> Wave:
        """Returns a wave with its nodes; raises RecordNotFoundError."""
        found = self._waves(WaveRow.name == name)
        if not found:
            raise RecordNotFoundError(
                "there is no such wave", actual=name[:200], remedy="enginekeeper wave list"
            )
        return found[0]

    def known(self, name: str) -> bool:
        """Says whether there is a wave of a name."""
        return self._session.scalar(select(WaveRow.id).where(WaveRow.name == name)) is not None

    def open(self, origin: Origin | None = None, driver: str | None = None) -> list[Wave]:
        """Returns the waves that have not ended, the oldest first.

        Only those of one origin, or about one driver, where that is said.
        """
        wanted: ColumnElement[bool] = WaveRow.phase.not_in([*ENDED])
        if origin is not None:
            wanted &= WaveRow.origin == origin
        if driver is not None:
            wanted &= WaveRow.driver == driver
        return self._waves(wanted)

    def all(self) -> list[tuple[Wave, int]]:
        """Returns every wave with the number of its nodes, the oldest first, without them."""
        count = select(func.count()).where(WaveNodeRow.wave_id == WaveRow.id).scalar_subquery()
        rows = self._session.execute(select(WaveRow, count).order_by(WaveRow.id))
        return [(_to_wave(row[0], (), ()), row[1]) for row in rows]

    def of_node(self, node: str) -> list[tuple[Wave, WaveNode]]:
        """Returns the waves that a node is or was in, each without its nodes.

        The newest first; those that were found come last: they release nothing.
        """
        query = (
            select(WaveRow, WaveNodeRow)
            .join(WaveNodeRow, WaveNodeRow.wave_id == WaveRow.id)
            .where(WaveNodeRow.node == node)
            .order_by(WaveRow.origin == Origin.FOUND, WaveRow.id.desc())
        )
        return [
            (_to_wave(wave, (), ()), _to_node(row)) for wave, row in self._session.execute(query)
        ]

    def going_on(self, nodes: Sequence[str]) -> dict[str, str]:
        """Returns, of some nodes, those that are in a planned wave which goes on, with its name.

        A wave that was found releases and holds nothing: it stands in the way of none.
        """
        return self._in_open(nodes, WaveRow.origin == Origin.PLANNED)

    def about(self, driver: str, nodes: Sequence[str]) -> dict[str, str]:
        """Returns, of some nodes, those in a wave about a driver that goes on, with its name."""
        return self._in_open(nodes, WaveRow.driver == driver)

    def _in_open(self, nodes: Sequence[str], wanted: ColumnElement[bool]) -> dict[str, str]:
        found: dict[str, str] = {}
        for start in range(0, len(nodes), TOGETHER):
            query = (
                select(WaveNodeRow.node, WaveRow.name)
                .join(WaveRow, WaveRow.id == WaveNodeRow.wave_id)
                .where(
                    WaveNodeRow.node.in_(nodes[start : start + TOGETHER]),
                    WaveRow.phase.not_in([*ENDED]),
                    wanted,
                )
            )
            found.update((node, wave) for node, wave in self._session.execute(query))
        return found

    def _waves(self, wanted: ColumnElement[bool]) -> list[Wave]:
        rows = list(self._session.scalars(select(WaveRow).where(wanted).order_by(WaveRow.id)))
        ids = [row.id for row in rows]
        nodes: dict[int, list[WaveNode]] = {one: [] for one in ids}
        query = select(WaveNodeRow).where(WaveNodeRow.wave_id.in_(ids)).order_by(WaveNodeRow.id)
        for node in self._session.scalars(query):
            nodes[node.wave_id].append(_to_node(node))
        work: dict[int, list[WaveWork]] = {one: [] for one in ids}
        asked = select(WaveWorkRow).where(WaveWorkRow.wave_id.in_(ids)).order_by(WaveWorkRow.id)
        for one in self._session.scalars(asked):
            work[one.wave_id].append(_to_work(one))
        return [_to_wave(row, nodes[row.id], work[row.id]) for row in rows]


def _to_wave(row: WaveRow, nodes: Sequence[WaveNode], work: Sequence[WaveWork]) -> Wave:
    return Wave(
        name=row.name,
        origin=Origin(row.origin),
        driver=row.driver,
        cuda_driver=row.cuda_driver,
        cuda_runtime=row.cuda_runtime,
        phase=Phase(row.phase),
        terms=Terms(**row.terms),
        announced_at=row.announced_at,
        actor=row.actor,
        nodes=tuple(nodes),
        work=tuple(work),
        places=tuple(row.places),
        simulated=row.simulated,
        webhook=row.webhook,
        deployment=row.deployment,
        specs=tuple(row.specs),
        safe_at=row.safe_at,
        ended_at=row.ended_at,
        reason=row.reason,
        version=row.version,
        notified=row.notified,
    )


def _to_node(row: WaveNodeRow) -> WaveNode:
    return WaveNode(
        row.node, Role(row.role), Stage(row.stage), row.since, row.previous_driver,
        named=row.named, reasons=tuple(row.reasons),
    )  # fmt: skip


def _to_work(row: WaveWorkRow) -> WaveWork:
    return WaveWork(
        row.engine, row.product, row.mig_profile, row.action, WorkState(row.state),
        row.changed_at, row.variant, row.attempt, row.run,
    )  # fmt: skip
