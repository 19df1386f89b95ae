"""Questions to the catalogue, answered with values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, contains_eager, lazyload

from registry.digests import Digest
from registry.entities import (
    to_checkpoint,
    to_engine,
    to_model,
    to_move,
    to_position,
    to_reference,
    to_verdict,
)
from registry.environments import Environment, GpuEnvironment, environment_from_dict
from registry.errors import AmbiguousIdError, InvalidRecordError, RecordNotFoundError
from registry.filters import filtered, is_latest
from registry.keys import EngineKey
from registry.models import (
    ChannelMoveRow,
    ChannelPositionRow,
    ChannelRow,
    CheckpointRow,
    EngineRow,
    KeyRow,
    ModelRow,
    QualificationRow,
    ReferenceRow,
    VerdictRow,
)
from registry.types import (
    ChannelMove,
    ChannelPosition,
    Checkpoint,
    Engine,
    EngineFilter,
    Model,
    Qualification,
    Reference,
    Verdict,
)

Identified = TypeVar("Identified", ModelRow, CheckpointRow, EngineRow, ReferenceRow, VerdictRow)

_PREFIX = re.compile(r"(?:([a-z0-9][a-z0-9-]*):)?([0-9a-f]{4,64})")
_COMPARED = 5000  # keys; a hundred thousand would take seconds
_SHOWN = 5  # how many candidates an ambiguous id lists


class View:
    """One state of the catalogue."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def engine(self, reference: str | Digest) -> Engine:
        """Returns the engine with an id or an unambiguous start of one (4 digits or more)."""
        return to_engine(self._find(EngineRow, "engine", reference))

    def engines(self, wanted: EngineFilter | None = None) -> list[Engine]:
        """Returns the engines that fit a filter, newest first."""
        query = select(EngineRow).order_by(EngineRow.id.desc())
        rows = self._session.scalars(filtered(query, wanted or EngineFilter(), self._session))
        return [to_engine(row) for row in rows.unique()]

    def keys_near(self, wanted: EngineKey) -> list[EngineKey]:
        """Returns hard layers of keys that engines have, newest first: of the same weights, or any.

        At most as many as can be compared in a blink.
        """
        newest = select(KeyRow).order_by(KeyRow.id.desc()).limit(_COMPARED)
        keyed = select(EngineRow.key_id).join(EngineRow.model)
        same = ModelRow.digest == Digest.parse(str(wanted.hard["weights"]))
        for query in (newest.where(KeyRow.id.in_(keyed.where(same))), newest):
            if rows := self._session.scalars(query).all():
                return [EngineKey(row.hard) for row in rows]
        return []

    def checkpoint(self, reference: str | Digest) -> Checkpoint:
        """Returns the checkpoint with an id or an unambiguous start of one."""
        return to_checkpoint(self._find(CheckpointRow, "checkpoint", reference))

    def checkpoints(self) -> list[Checkpoint]:
        """Returns all checkpoints, newest first."""
        rows = self._session.scalars(select(CheckpointRow).order_by(CheckpointRow.id.desc()))
        return [to_checkpoint(row) for row in rows.unique()]

    def model(self, reference: str | Digest) -> Model:
        """Returns the model with a digest or an unambiguous start of one."""
        return to_model(self._find(ModelRow, "model", reference))

    def models(self) -> list[Model]:
        """Returns all models, newest first."""
        rows = self._session.scalars(select(ModelRow).order_by(ModelRow.id.desc()))
        return [to_model(row) for row in rows]

    def references(
        self, model: Digest | None = None, *, key: Digest | None = None
    ) -> list[Reference]:
        """Returns the signed references of one model or of one key, or all, newest first."""
        signed = ReferenceRow.key.is_not(None)
        query = select(ReferenceRow).join(ReferenceRow.model).where(signed)
        if model is not None:
            query = query.where(ModelRow.digest == model)
        if key is not None:
            query = query.where(ReferenceRow.key == key)
        rows = self._session.scalars(query.order_by(ReferenceRow.id.desc())).unique()
        return [to_reference(row) for row in rows]

    def verdict(self, reference: str | Digest) -> Verdict:
        """Returns the verdict with an id or an unambiguous start of one."""
        return to_verdict(self._find(VerdictRow, "verdict", reference))

    def verdicts(self, engine: Digest) -> list[Verdict]:
        """Returns every verdict on an engine, newest first."""
        # Of the engine only its digest is looked at: not its key, its model and its statement.
        digest = contains_eager(VerdictRow.engine).load_only(EngineRow.digest)
        query = select(VerdictRow).join(VerdictRow.engine).where(EngineRow.digest == engine)
        query = query.options(digest.options(lazyload("*")))
        rows = self._session.scalars(query.order_by(VerdictRow.id.desc())).unique()
        return [to_verdict(row) for row in rows]

    def qualifications(self, engine: Digest | None = None) -> list[Qualification]:
        """Returns the qualifications of one engine or of all, newest first."""
        # The subquery is about each row's own verdict: one look at an index, whatever the size.
        current = select(VerdictRow.id).where(
            VerdictRow.id == QualificationRow.verdict_id, is_latest()
        )
        query = select(QualificationRow, current.exists())
        if engine is not None:
            engine_ids = select(EngineRow.id).where(EngineRow.digest == engine)
            query = query.where(QualificationRow.engine_id.in_(engine_ids))
        rows = self._session.execute(query.order_by(QualificationRow.id.desc())).unique()
        return [
            Qualification(
                engine=row.verdict.engine.digest,
                environment=environment_from_dict(row.verdict.environment.document),
                verdict=row.verdict.digest,
                current=bool(current),
                recorded_at=row.recorded_at,
            )
            for row, current in rows
        ]

    def channels(self, model_name: str | None = None) -> list[ChannelPosition]:
        """Returns what every channel resolves to, by channel, model and target."""
        query = select(ChannelPositionRow).join(ChannelPositionRow.channel)
        if model_name is not None:
            query = query.where(ChannelRow.model_name == model_name)
        query = query.order_by(ChannelRow.name, ChannelRow.model_name, ChannelPositionRow.target)
        return [to_position(row) for row in self._session.scalars(query).unique()]

    def positioned(self, channel: str, model_name: str, environment: Environment) -> list[Engine]:
        """Returns what a channel resolves to on a model's targets of an environment's hardware."""
        query = (
            select(EngineRow)
            .join(ChannelPositionRow, ChannelPositionRow.engine_id == EngineRow.id)
            .join(ChannelPositionRow.channel)
            .join(EngineRow.key)
            .where(ChannelRow.name == channel, ChannelRow.model_name == model_name)
            .order_by(ChannelPositionRow.target)
            .options(contains_eager(EngineRow.key))
        )
        if isinstance(environment, GpuEnvironment):
            query = query.where(
                KeyRow.gpu_product == environment.product,
                KeyRow.compute_capability == environment.compute_capability,
                KeyRow.cuda_runtime == environment.cuda_runtime,
            )
        else:
            query = query.where(KeyRow.gpu_product.is_(None))
        return [to_engine(row) for row in self._session.scalars(query).unique()]

    def moves(self, channel: str, model_name: str) -> list[ChannelMove]:
        """Returns a channel's history, newest first."""
        query = (
            select(ChannelMoveRow)
            .join(ChannelMoveRow.channel)
            .where(ChannelRow.name == channel, ChannelRow.model_name == model_name)
            .order_by(ChannelMoveRow.id.desc())
        )
        return [to_move(row) for row in self._session.scalars(query).unique()]

    def _find(self, kind: type[Identified], what: str, reference: str | Digest) -> Identified:
        """Returns the one row whose digest starts with a reference."""
        match = _PREFIX.fullmatch(str(reference).strip().lower())
        if match is None:
            raise InvalidRecordError(
                f"cannot be the id of any {what}",
                actual=str(reference),
                expected="4 to 64 hexadecimal digits, with or without a scheme like `sha256:`",
            )
        start = f"{match[1] or 'sha256'}:{match[2]}"
        # A range and not LIKE, so that the index is used; `g` follows the last digit.
        query: Select[Any] = (
            select(kind)
            .where(kind.digest >= start, kind.digest < f"{start}g")
            .order_by(kind.digest)
            .limit(_SHOWN + 1)
        )
        rows: Sequence[Identified] = self._session.scalars(query).unique().all()
        if not rows:
            raise RecordNotFoundError(f"there is no such {what}", actual=str(reference))
        if len(rows) > 1:
            candidates = ", ".join(row.digest.short for row in rows[:_SHOWN])
            raise AmbiguousIdError(
                f"the id fits several: {candidates}{' …' if len(rows) > _SHOWN else ''}",
                actual=str(reference),
                expected=f"the id of one {what}",
                remedy="give more of its digits",
            )
        return rows[0]
