"""Moves channels: on to an engine, back to an earlier one, to nothing, or a rehearsal of these.

Rules:

- a rehearsal goes the same way as the move, to its end, and keeps nothing: it answers as the move
  would;
- what the store must hold is looked at first, then what lies signed beside the engine, which is
  kept whatever becomes of the move; then the gate is asked, in the unit of work that moves the
  channel.

Example:
    mover = Mover(catalogue, store, judge, clock)
    mover.set("prod", engine, environment, actor="anna", dry_run=True).decision.waived
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from registry.beside import Lost, find_lost, take_in
from registry.blobs.interface import BlobStore
from registry.catalogue import Catalogue
from registry.channels import (
    earlier_engines,
    moves_at,
    position_at,
    require_next_open,
    rollback_target,
)
from registry.digests import Digest
from registry.environments import Environment
from registry.gate import GateDecision
from registry.judge import Judge
from registry.queries import View
from registry.records import Draft
from registry.transfer import load_manifest, require_stored
from registry.types import ChannelMove, ChannelPosition, Engine, Place


@dataclass(frozen=True)
class Moved:
    """What a channel resolves to now, or would, and what the gate said of that."""

    decision: GateDecision
    position: ChannelPosition


@dataclass(frozen=True)
class _Wanted:
    place: Place
    engine: Engine
    environment: Environment
    rollback: bool = False
    unnamed: bool = False
    """Nobody named the engine: it is the next one back."""


@dataclass(frozen=True)
class Mover:
    """Moves the channels of one catalogue to what one store holds, through the gate."""

    catalogue: Catalogue
    store: BlobStore
    judge: Judge
    clock: Callable[[], datetime]

    def set(
        self, channel: str, engine: Engine, environment: Environment, *, actor: str,
        dry_run: bool = False,
    ) -> Moved:  # fmt: skip
        """Lets a channel resolve to an engine for its model and target, if the gate is open.

        Raises the gate's error when it is not, IntegrityError when the store lost any of its
        files, ConflictError when somebody else moved the channel at the same time. Setting what
        is set already changes nothing.
        """
        place = Place(channel, engine.model_name, engine.target)
        return self._move(_Wanted(place, engine, environment), actor=actor, dry_run=dry_run)

    def roll_back(
        self, place: Place, to: str | Digest | None, environment: Environment | None, *,
        actor: str, dry_run: bool = False,
    ) -> Moved:  # fmt: skip
        """Lets a channel resolve to an earlier engine again, if the gate is open for it."""
        with self.catalogue.read() as view:
            moves = moves_at(view, place)
            engine = rollback_target(view, place, moves, to)
        where = environment or moves[0].environment
        wanted = _Wanted(place, engine, where, rollback=True, unnamed=to is None)
        return self._move(wanted, actor=actor, dry_run=dry_run)

    def clear(self, place: Place, *, actor: str, dry_run: bool = False) -> ChannelMove | None:
        """Lets a place resolve to nothing, which asks no gate; None where nothing was there.

        What serves is not stopped, and a rollback leads back.
        """
        with self.catalogue.edit(actor=actor, dry_run=dry_run) as draft:
            return draft.clearing.clear(place, actor=actor, at=self.clock())

    def choices(self, place: Place, environment: Environment | None) -> list[GateDecision]:
        """Returns what the gate says of every engine a channel can go back to, the next first."""
        with self.catalogue.read() as view:
            moves = moves_at(view, place)
            where = environment or moves[0].environment
            return [self._asked(view, one, where) for one in earlier_engines(view, moves)]

    def _asked(self, view: View, engine: Engine, environment: Environment) -> GateDecision:
        return self._decided(view, engine, environment, self._lost(view, engine))

    def _decided(
        self, view: View, engine: Engine, environment: Environment, lost: Lost
    ) -> GateDecision:
        return self.judge.decide(
            engine, view.recorded(engine.digest), environment,
            simulated_node=engine.simulated, lost=lost,
        )  # fmt: skip

    def _lost(self, view: View, engine: Engine) -> Lost:
        return find_lost(view, self.store, engine, self.judge.trusting, self.clock())

    def _move(self, wanted: _Wanted, *, actor: str, dry_run: bool) -> Moved:
        engine = wanted.engine
        require_stored(self.store, load_manifest(self.store, engine.path, engine.digest))
        with self.catalogue.read() as view:
            lost = self._lost(view, engine)
        if lost and not dry_run:
            with self.catalogue.edit(actor=actor) as draft:
                take_in(draft, lost)
            # The rest is recorded, and what was recorded after it counts more.
            lost = Lost(doubtful=lost.doubtful)
        with self.catalogue.edit(actor=actor, dry_run=dry_run) as draft:
            draft.hold_engine(engine.digest)  # what is revoked from here on sees the move
            if draft.unchecked():  # maybe since the look, which was at another catalogue then
                lost = self._lost(draft, engine)
            decision = self._decided(draft, engine, wanted.environment, lost)
            if wanted.unnamed:
                require_next_open(wanted.place, decision, self._further(draft, wanted))
            decision.require_open()
            return Moved(decision, self._moved(draft, wanted, actor))

    def _further(self, view: View, wanted: _Wanted) -> Iterator[GateDecision]:
        """Yields what the gate says of the engines behind the next one, as they are asked for."""
        for engine in earlier_engines(view, moves_at(view, wanted.place))[1:]:
            yield self._asked(view, engine, wanted.environment)

    def _moved(self, draft: Draft, wanted: _Wanted, actor: str) -> ChannelPosition:
        place, engine = wanted.place, wanted.engine
        before = position_at(draft, place)
        if before is not None and before.engine == engine.digest:
            return before
        move = ChannelMove(
            channel=place.channel,
            model_name=place.model,
            target=place.target,
            engine=engine.digest,
            previous=None if before is None else before.engine,
            environment=wanted.environment,
            actor=actor,
            moved_at=self.clock(),
            rollback=wanted.rollback,
            simulated=engine.simulated,
        )
        draft.move_channel(move, simulated=engine.simulated)
        return ChannelPosition(
            move.channel, move.model_name, move.target, move.engine, engine.simulated, move.moved_at
        )
