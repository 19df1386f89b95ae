"""Emptying a place of a channel, on record: the undo of the first engine that was put there.

A channel is of one world, real or simulated, as long as anything is in it; an empty one takes the
world of the next engine (adr/0104). What was in it stays in its history and on the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.audit import Note
from registry.entities import to_move
from registry.models import ChannelMoveRow, ChannelPositionRow, ChannelRow
from registry.types import ChannelMove, Place


@dataclass(frozen=True)
class ClearingDraft:
    """The channels, to be emptied in a unit of work."""

    session: Session
    note: Note

    def clear(self, place: Place, *, actor: str, at: datetime) -> ChannelMove | None:
        """Lets a place resolve to nothing; returns the move, None where nothing was there."""
        channel = self.session.scalars(
            select(ChannelRow)
            .where(ChannelRow.name == place.channel, ChannelRow.model_name == place.model)
            .with_for_update()  # as a move does: who moves it now is waited for
        ).one_or_none()
        if channel is None:
            return None
        position = self.session.scalars(
            select(ChannelPositionRow)
            .where(ChannelPositionRow.channel_id == channel.id)
            .where(ChannelPositionRow.target == place.target)
            .execution_options(populate_existing=True)
        ).one_or_none()
        if position is None:
            return None
        engine = position.engine_id
        row = ChannelMoveRow(
            channel_id=channel.id, target=place.target, engine_id=engine, previous_id=engine,
            environment_id=self._admitted(channel, place), actor=actor, moved_at=at, cleared=True,
        )  # fmt: skip
        self.session.add(row)
        self.session.delete(position)
        self.session.flush()
        self.session.refresh(row)
        move = to_move(row)
        said = {"previous": str(move.engine)}
        where = f"{place.channel} of {place.model} on {place.target}"
        self.note("channel clear", where, said, actor=actor)
        return move

    def _admitted(self, channel: ChannelRow, place: Place) -> int:
        """Returns the environment of the latest move: a way back asks the gate about it."""
        return self.session.scalars(
            select(ChannelMoveRow.environment_id)
            .where(ChannelMoveRow.channel_id == channel.id, ChannelMoveRow.target == place.target)
            .order_by(ChannelMoveRow.id.desc())
            .limit(1)
        ).one()
