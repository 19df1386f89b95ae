"""Changes to waves, within one unit of work of the catalogue.

Rules:

- a wave is written against the version that was read: of two that go on at once one is told so;
- only what changed is written, and every change of a phase or a stage is in the audit log: nodes
  that changed alike and for the same reasons are one entry, of at most `_TOLD` names;
- a node is in one planned wave that goes on, at most; those that were found hold and release
  nothing, and it may be in them besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from registry.audit import Note
from registry.errors import ConflictError
from registry.waves.queries import WaveView
from registry.waves.tables import WaveNodeRow, WaveRow, WaveWorkRow
from registry.waves.types import Origin, Wave, WaveNode, WaveWork

_TOLD = 500


class WaveDraft(WaveView):
    """The waves, to be changed in one unit of work."""

    def __init__(self, session: Session, note: Note) -> None:
        super().__init__(session)
        self._note = note

    def begin(self, wave: Wave) -> None:
        """Records a new wave; raises ConflictError where a planned one has nodes of another."""
        self._check_free(wave)
        row = WaveRow(
            name=wave.name, origin=wave.origin, driver=wave.driver, cuda_driver=wave.cuda_driver,
            cuda_runtime=wave.cuda_runtime, phase=wave.phase, terms=asdict(wave.terms),
            places=list(wave.places), simulated=wave.simulated, webhook=wave.webhook,
            deployment=wave.deployment, specs=list(wave.specs), announced_at=wave.announced_at,
            safe_at=wave.safe_at, ended_at=wave.ended_at, reason=wave.reason, actor=wave.actor,
            version=1, notified=0,
        )  # fmt: skip
        self._session.add(row)
        self._session.flush()
        self._add_nodes(row.id, wave.nodes)
        self._add_work(row.id, wave.work)
        self._note("wave start", wave.name, {
            "driver": wave.driver, "cuda_driver": wave.cuda_driver, "origin": wave.origin,
            "phase": wave.phase, "terms": asdict(wave.terms), "nodes": len(wave.nodes),
        }, actor=wave.actor)  # fmt: skip
        self._tell_nodes(wave.name, {}, wave.nodes)

    def change(self, before: Wave, after: Wave) -> None:
        """Records how a wave went on; raises ConflictError where it went on meanwhile.

        Nothing is written where nothing changed.
        """
        if after == before:
            return
        row = self._session.scalars(select(WaveRow).where(WaveRow.name == before.name)).one()
        taken = self._session.scalar(
            update(WaveRow)
            .where(WaveRow.id == row.id, WaveRow.version == before.version)
            .values(
                phase=after.phase, safe_at=after.safe_at, ended_at=after.ended_at,
                reason=after.reason, notified=after.notified, version=before.version + 1,
            )
            .returning(WaveRow.id)
            .execution_options(synchronize_session=False)
        )  # fmt: skip
        if taken is None:
            raise ConflictError(
                "somebody else let this wave go on meanwhile",
                where=f"wave {before.name}",
                remedy="look at it (enginekeeper wave status) and run again",
                transient=True,
            )
        known = {one.name: one for one in before.nodes}
        changed = [one for one in after.nodes if known.get(one.name) != one]
        self._change_nodes(row.id, [one for one in changed if one.name in known])
        self._add_nodes(row.id, [one for one in changed if one.name not in known])
        self._change_work(row.id, before.work, after.work)
        self._tell_wave(before, after)
        self._tell_nodes(after.name, known, changed)
        self._session.expire_all()  # what was read before is not so any more

    def notified(self, name: str, version: int) -> None:
        """Records that the webhook has taken a version; an older one changes nothing."""
        self._session.execute(
            update(WaveRow)
            .where(WaveRow.name == name, WaveRow.notified < version)
            .values(notified=version)
        )

    def _check_free(self, wave: Wave) -> None:
        if wave.origin is Origin.FOUND:
            return
        for node, other in self.going_on([one.name for one in wave.nodes]).items():
            raise ConflictError(
                "a node is in a wave that goes on",
                where=f"node {node}",
                actual=f"wave {other}",
                expected="a node in no wave",
                remedy=f"enginekeeper wave abort {other}, or leave the node out: --skip {node}",
            )

    def _add_nodes(self, wave: int, nodes: Iterable[WaveNode]) -> None:
        rows = [{"wave_id": wave, "node": one.name, **_columns(one)} for one in nodes]
        if rows:
            self._session.execute(insert(WaveNodeRow), rows)

    def _change_nodes(self, wave: int, nodes: Iterable[WaveNode]) -> None:
        rows = [{"of_wave": wave, "of_node": one.name, **_columns(one)} for one in nodes]
        if rows:
            self._session.connection().execute(
                update(WaveNodeRow).where(
                    WaveNodeRow.wave_id == bindparam("of_wave"),
                    WaveNodeRow.node == bindparam("of_node"),
                ),
                rows,
            )

    def _add_work(self, wave: int, work: Iterable[WaveWork]) -> None:
        rows = [{"wave_id": wave, **asdict(one)} for one in work]
        if rows:
            self._session.execute(insert(WaveWorkRow), rows)

    def _change_work(
        self, wave: int, before: Sequence[WaveWork], after: Sequence[WaveWork]
    ) -> None:
        known = {one.key: one for one in before}
        self._add_work(wave, [one for one in after if one.key not in known])
        for one in after:
            if one.key in known and known[one.key] != one:
                self._session.execute(
                    update(WaveWorkRow)
                    .where(
                        WaveWorkRow.wave_id == wave, WaveWorkRow.engine == one.engine,
                        WaveWorkRow.product == one.product,
                        WaveWorkRow.mig_profile == one.mig_profile,
                    )
                    .values(
                        state=one.state, attempt=one.attempt, run=one.run, action=one.action,
                        changed_at=one.changed_at,
                    )
                )  # fmt: skip

    def _tell_wave(self, before: Wave, after: Wave) -> None:
        if before.phase is not after.phase:
            self._note(f"wave {after.phase}", after.name, {
                "from": before.phase, "to": after.phase, "reason": after.reason,
            })  # fmt: skip
        if before.safe_at is None and after.safe_at is not None:
            seconds = int((after.safe_at - after.announced_at).total_seconds())
            self._note("wave safe", after.name, {"seconds": seconds})
        if before.safe_at is not None and after.safe_at is None:
            self._note("wave unsafe", after.name, {"safe_at": before.safe_at.isoformat()})
        known = {one.key: one for one in before.work}
        for one in after.work:
            old = known.get(one.key)
            if old is None or (old.state, old.attempt) != (one.state, one.attempt):
                self._note("wave work", after.name, {
                    "engine": one.engine, "gpu": one.product, "action": one.action,
                    "state": one.state, "run": one.run,
                })  # fmt: skip

    def _tell_nodes(
        self, wave: str, before: Mapping[str, WaveNode], after: Iterable[WaveNode]
    ) -> None:
        alike: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
        for one in after:
            old = before.get(one.name)
            if old is None or old.stage is not one.stage:
                was = "" if old is None else str(old.stage)
                key = was, str(one.stage), str(one.role), one.reasons
                alike.setdefault(key, []).append(one.name)
        for (was, stage, role, reasons), names in alike.items():
            for told in _portions(names):
                self._note(f"wave node {stage}", wave, {
                    "from": was or None, "to": stage, "role": role, "nodes": told,
                    "reasons": list(reasons),
                })  # fmt: skip


def _columns(node: WaveNode) -> dict[str, Any]:
    return {
        "role": node.role, "stage": node.stage, "since": node.since,
        "previous_driver": node.previous_driver, "named": node.named,
        "reasons": list(node.reasons),
    }  # fmt: skip


def _portions(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _TOLD):
        yield list(names[start : start + _TOLD])
