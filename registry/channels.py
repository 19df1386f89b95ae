"""Where a channel may go: on to another engine, or back to an earlier one.

Rules:

- an engine gets into a channel through the gate and in no other way, back or forth;
- going back leaves the way: after A, B, C one rollback leads to B and the next to A, and not to C;
- from a place that was emptied the way leads back to what was in it; from an engine it leads to no
  engine of the other world, simulated or real;
- what has no row any more (swept) cannot be gone back to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from registry.digests import Digest
from registry.errors import InvalidRecordError, RecordNotFoundError
from registry.gate import GateDecision
from registry.queries import View
from registry.types import ChannelMove, ChannelPosition, Engine, Place, Step


def find_place(
    view: View, channel: str, *, model: str | None = None, target: str | None = None
) -> Place:
    """Returns the one place of a channel that a model and a target, if given, leave.

    Raises RecordNotFoundError for none, InvalidRecordError for several.
    """
    found = [
        one.place
        for one in view.channels(model)
        if one.channel == channel and target in (None, one.target)
    ] or _emptied(view, channel, model, target)
    if not found:
        raise RecordNotFoundError(
            "no such channel",
            where=f"channel {channel}, model {model or 'any'}, target {target or 'any'}",
            remedy="enginekeeper channel list",
        )
    if len(found) > 1:
        raise InvalidRecordError(
            "the channel resolves for several models or targets",
            where=f"channel {channel}",
            actual=", ".join(f"{one.model} on {one.target}" for one in found),
            expected="one of them",
            remedy="name it: --model MODEL --target TARGET",
        )
    return found[0]


def _emptied(view: View, channel: str, model: str | None, target: str | None) -> list[Place]:
    """Returns the places of a channel that something was in once."""
    return [
        one for one in view.steps(model) if one.channel == channel and target in (None, one.target)
    ]


def position_at(view: View, place: Place) -> ChannelPosition | None:
    """Returns what a place resolves to, or None for one that nothing was ever put into."""
    for position in view.channels(place.model):
        if position.place == place:
            return position
    return None


def moves_at(view: View, place: Place) -> list[ChannelMove]:
    """Returns the history of a place, newest first."""
    return [one for one in view.moves(place.channel, place.model) if one.target == place.target]


def earlier_engines(view: View, moves: Sequence[ChannelMove]) -> list[Engine]:
    """Returns the engines of the way back that are still there, the next one first."""
    engines = (view.known_engine(digest) for digest in way_back(moves))
    return [engine for engine in engines if engine is not None]


def rollback_target(
    view: View, place: Place, moves: Sequence[ChannelMove], to: str | Digest | None
) -> Engine:
    """Returns the engine a rollback leads to; raises RecordNotFoundError where there is none.

    With `to` any engine of the history will do, and nothing that was never in it.
    """
    if to is not None:
        engine = view.engine(to)
        if engine.digest in {move.engine for move in moves}:
            return engine
        raise RecordNotFoundError(
            "the engine was never in the channel",
            where=str(place),
            actual=engine.digest.short,
            expected=f"one of {', '.join(sorted({move.engine.short for move in moves}))}",
            remedy=f"enginekeeper channel set {place.channel} {engine.digest.short}",
        )
    engines = earlier_engines(view, moves)
    if not engines:
        raise RecordNotFoundError(
            "there is nothing to go back to",
            where=str(place),
            actual=f"{len(moves)} moves",
            expected="an engine that was in the channel before and is still there",
            remedy=f"enginekeeper channel history {place.model} {place.channel}",
        )
    return engines[0]


def require_next_open(place: Place, decision: GateDecision, behind: Iterable[GateDecision]) -> None:
    """Raises the gate's error if it is closed for the next engine back, and names one further on.

    It is never taken by itself: who skips an engine should know that. Of those behind it only as
    many are asked about as it takes to find one.
    """
    if decision.is_open:
        return
    further = next((one for one in behind if one.is_open), None)
    remedy = f"build one: no engine that {place} had before is let through"
    if further is not None:
        remedy = (
            f"enginekeeper channel rollback {place.channel} --model {place.model} "
            f"--target {place.target} --to {further.engine.short}"
        )
    decision.require_open(remedy=remedy)


def way_back(moves: Sequence[ChannelMove | Step]) -> list[Digest]:
    """Returns the engines that rollbacks lead to, one after the other, given moves newest first.

    A rollback takes the engines off the way that it went back over; what was put in since lies on
    top of where it led. An engine stands on the way once, where it was last put in. From a place
    that was emptied the way leads to what was taken out, first.
    """
    way: list[Digest] = []
    worlds: dict[Digest, bool | None] = {}
    for move in reversed(moves):
        worlds[move.engine] = move.simulated
        if move.cleared:
            continue
        if move.engine in way:
            at = way.index(move.engine)
            del way[at : None if move.rollback else at + 1]
        way.append(move.engine)
    if not moves or moves[0].cleared:
        return way[::-1]
    other = None if moves[0].simulated is None else not moves[0].simulated
    return [one for one in way[-2::-1] if other is None or worlds[one] is not other]
