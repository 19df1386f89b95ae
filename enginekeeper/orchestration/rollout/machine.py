"""What happens next in a wave: one pure function of the wave, of what is seen, and of the time.

Rules:

- a node is released when every engine on it is qualified under the new driver, nothing is wrong
  with it and the budget has room; a node for qualification is released when it serves nothing;
- where each node is by what is seen of it says `following`: what is not known is neither released
  nor counted as safe, and it is away;
- nodes for qualification come first, then the canary, then the rest; the canary has to be well
  for a while, and to say so after it;
- a wave is safe while nothing that is seen says otherwise, and from when every node was seen well;
- whatever fails stops the wave: released nodes that are not upgraded yet are held again, those
  that are stay as they are;
- a stopped, aborted or ended wave releases nothing; what happens to its nodes is still seen;
- on the way back a node is released when its engines are qualified under the driver it had, and
  held again when they are no more; the wave is back when no node that it had released can still
  come up with the driver;
- a node that left the fleet is waited for by nobody;
- a change that was found releases nothing and stops nothing: it is over when every node has
  proven engines, or another driver.

Example:
    after = advance(wave, sights, failures=(), now=datetime.now(UTC))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from enginekeeper.orchestration.rollout.budget import allowed
from enginekeeper.orchestration.rollout.following import (
    GOING_ON,
    HAS_IT,
    HAS_OTHER,
    Sight,
    has_it,
    is_gone,
    moved,
    observed,
    patience,
    why_not,
    why_unseen,
)  # fmt: skip
from registry.waves.types import Origin, Phase, Role, Stage, Wave, WaveNode

_GOING_BACK = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK})
_AWAY = frozenset({Stage.RELEASED, Stage.UPGRADED, Stage.FAILED, Stage.REVERTING})
_OVER = frozenset({Stage.DONE, Stage.REVERTED})
_NAMED = 3
"""How many failed nodes the reason of a stop names."""


def advance(
    wave: Wave, sights: Mapping[str, Sight], *, failures: Sequence[str] = (), now: datetime
) -> Wave:
    """Returns the wave as it goes on; the same one where nothing happens. Pure and total.

    `failures` are engines that were judged under the new driver and failed.
    """
    nodes = tuple(observed(one, sights.get(one.name), wave, now) for one in wave.nodes)
    after = _made_safe(replace(wave, nodes=nodes), sights, now)
    if after.phase is Phase.ROLLING_BACK:
        return _rolled_back(_turned_back(after, sights, now), sights, now)
    if after.phase not in GOING_ON:
        return after
    if after.origin is Origin.FOUND:
        return _progressed(after, sights, now)
    if (reason := _failure(after, failures)) is not None:
        return stop(after, Phase.STOPPED, reason, now)
    return _released(_progressed(after, sights, now), sights, now)


def stop(wave: Wave, phase: Phase, reason: str, now: datetime) -> Wave:
    """Returns the wave stopped or aborted: what was released and has not begun is held again."""
    nodes = tuple(
        moved(one, Stage.HELD, now, (f"the wave was {phase}",))
        if one.stage is Stage.RELEASED
        else one
        for one in wave.nodes
    )
    ended = now if phase is Phase.ABORTED else None
    return replace(wave, phase=phase, reason=reason, nodes=nodes, ended_at=ended)


def resume(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    """Returns a stopped wave that goes on; failed nodes without the new driver are held."""
    nodes = tuple(
        moved(one, Stage.HELD, now, ())
        if one.stage is Stage.FAILED and not has_it(sights.get(one.name), wave)
        else one
        for one in wave.nodes
    )
    return replace(wave, phase=Phase.QUALIFYING, reason=None, nodes=nodes)


def turn_back(wave: Wave, reason: str, now: datetime) -> Wave:
    """Returns the wave on its way back."""
    held = stop(wave, Phase.ROLLING_BACK, reason, now)
    return replace(held, ended_at=None)


def _made_safe(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    """Notes since when every node has engines that are qualified, all of them.

    Only a node that is seen well says so; one whose engine is not qualified any more takes it back
    while the wave goes on, one that falls silent does not. A node that went back to its driver says
    nothing of this one, and all of them prove nothing; nor does a wave that goes back.
    """
    if wave.phase in _GOING_BACK:
        return wave
    seen = [sights.get(one.name) for one in wave.nodes if one.stage is not Stage.REVERTED]
    if wave.safe_at is not None:
        lost = not wave.ended and any(one is not None and one.blockers for one in seen)
        return replace(wave, safe_at=None) if lost else wave
    if seen and all(_is_well(one, wave) and one is not None and not one.blockers for one in seen):
        return replace(wave, safe_at=now)
    return wave


def _is_well(sight: Sight | None, wave: Wave) -> bool:
    return sight is not None and not sight.problems and why_unseen(sight, wave) is None


def _failure(wave: Wave, failures: Sequence[str]) -> str | None:
    if failures:
        return f"failed under driver {wave.driver}: {', '.join(failures[:_NAMED])}"
    failed = [one for one in wave.nodes if one.stage is Stage.FAILED]
    if not failed:
        return None
    said = "; ".join(f"{one.name}: {', '.join(one.reasons)}" for one in failed[:_NAMED])
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return f"failed: {said}{more}"


def _progressed(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    """Moves on through the phases, as far as the nodes are."""
    phase = wave.phase
    if phase is Phase.QUALIFYING and _all_done(wave, Role.QUALIFICATION):
        phase = Phase.CANARY
    if phase is Phase.CANARY and _canary_is_well(wave, sights, now):
        phase = Phase.ROLLING
    if all(one.stage in _OVER for one in wave.nodes):
        return replace(wave, phase=Phase.DONE, reason=None, ended_at=now)
    return replace(wave, phase=phase)


def _all_done(wave: Wave, role: Role) -> bool:
    return all(one.stage in _OVER for one in wave.nodes if one.role is role)


def _canary_is_well(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> bool:
    canary = _canary(wave)
    if len(canary) < _canary_size(wave) or not _all_done(wave, Role.CANARY):
        return False
    soak = timedelta(seconds=wave.terms.soak_seconds)
    return not soak or all(
        now - one.since >= soak + _silence(sights.get(one.name), now - one.since) for one in canary
    )


def _silence(sight: Sight | None, otherwise: timedelta) -> timedelta:
    """Returns how long ago a node spoke."""
    return otherwise if sight is None or sight.silent_for is None else sight.silent_for


def _canary(wave: Wave) -> list[WaveNode]:
    return [
        one for one in wave.nodes if one.role is Role.CANARY and one.stage is not Stage.REVERTED
    ]


def _canary_size(wave: Wave) -> int:
    serving = sum(
        one.role is not Role.QUALIFICATION and one.stage is not Stage.REVERTED for one in wave.nodes
    )
    return min(wave.terms.canary, serving)


def _released(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    """Releases what the phase and the budget let go, and says what others wait for."""
    if wave.phase is Phase.DONE:
        return wave
    free, waiting = _chosen(wave, sights)
    chosen = {one.name: one for one in free}
    nodes = tuple(
        moved(chosen[one.name], Stage.RELEASED, now, ()) if one.name in chosen else one
        for one in wave.nodes
    )
    reason = _budget_used(wave, sights) if waiting else None
    return replace(wave, nodes=nodes, reason=reason)


def _budget_used(wave: Wave, sights: Mapping[str, Sight]) -> str | None:
    """Names the nodes that use the budget otherwise than on their way to the driver."""
    used = [
        f"{one.name} ({_why_away(one, sights.get(one.name), wave)})"
        for one in wave.nodes
        if one.role is not Role.QUALIFICATION
        and one.stage is not Stage.RELEASED
        and _is_away(one, sights.get(one.name), wave)
    ]
    more = f" and {len(used) - _NAMED} more" if len(used) > _NAMED else ""
    return f"the budget is used by {', '.join(used[:_NAMED])}{more}" if used else None


def _why_away(node: WaveNode, sight: Sight | None, wave: Wave) -> str:
    problems = () if sight is None else sight.problems
    return why_unseen(sight, wave) or next(iter((*problems, *node.reasons)), str(node.stage))


def _chosen(wave: Wave, sights: Mapping[str, Sight]) -> tuple[list[WaveNode], list[WaveNode]]:
    """Returns the nodes that are released, and those that wait for room in the budget."""
    free = [
        one
        for one in wave.nodes
        if one.stage is Stage.HELD and _may_go(one, sights.get(one.name), wave)
    ]
    if wave.phase is Phase.QUALIFYING:
        return [one for one in free if one.role is Role.QUALIFICATION], []
    room = max(0, allowed(wave.terms.max_unavailable, len(wave.nodes)) - away(wave, sights))
    others = [one for one in free if one.role is not Role.QUALIFICATION]
    late = [one for one in free if one.role is Role.QUALIFICATION]
    if wave.phase is Phase.CANARY:
        canary = _canary(wave)
        again = [one for one in others if one.role is Role.CANARY]
        more = [one for one in others if one.role is Role.BATCH]
        new = more[: max(0, _canary_size(wave) - len(canary))]
        others = [*again, *(replace(one, role=Role.CANARY) for one in new)]
    return [*late, *others[:room]], others[room:]


def _may_go(node: WaveNode, sight: Sight | None, wave: Wave) -> bool:
    if sight is None or not _is_well(sight, wave) or sight.driver == wave.driver:
        return False
    return why_not(node, sight) is None


def away(wave: Wave, sights: Mapping[str, Sight]) -> int:
    """Counts the nodes that serve less than they should: released, failed, broken, not heard.

    Nodes for qualification serve nothing anyway.
    """
    return sum(
        one.role is not Role.QUALIFICATION and _is_away(one, sights.get(one.name), wave)
        for one in wave.nodes
    )


def _is_away(node: WaveNode, sight: Sight | None, wave: Wave) -> bool:
    return node.stage in _AWAY or not (is_gone(sight) or _is_well(sight, wave))


def _turned_back(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    """Sends nodes back as far as the budget has room; what is broken anyway takes none of it."""
    most = allowed(wave.terms.max_unavailable, len(wave.nodes))
    going = sum(one.stage is Stage.REVERTING for one in wave.nodes)
    out = sum(_is_out(one, sights.get(one.name), wave) for one in wave.nodes)
    nodes = []
    for one in wave.nodes:
        sight = sights.get(one.name)
        after = _back(one, sight, wave, now) if one.stage in HAS_IT else one
        if after.stage is Stage.REVERTING and one.stage is not Stage.REVERTING:
            costs = one.role is not Role.QUALIFICATION and not _is_out(one, sight, wave)
            if going >= most or (costs and out >= most):
                after = one
            else:
                going, out = going + 1, out + costs
        nodes.append(after)
    return replace(wave, nodes=tuple(nodes))


def _is_out(node: WaveNode, sight: Sight | None, wave: Wave) -> bool:
    """Says whether a node serves less than it should while a wave goes back."""
    if node.role is Role.QUALIFICATION or is_gone(sight):
        return False
    return node.stage is Stage.REVERTING or not _is_well(sight, wave)


def _back(node: WaveNode, sight: Sight | None, wave: Wave, now: datetime) -> WaveNode:
    if node.previous_driver in (None, wave.driver):
        none = "had this driver before, or none that is known: nothing to go back to"
        return moved(node, Stage.REVERTED, now, (none,))
    if sight is None:
        return node
    if sight.driver == node.previous_driver:
        on_its_way = node.stage is Stage.FAILED  # perhaps: it has to say anew
        said = (f"the wave was {wave.phase}",) if on_its_way else ()
        return moved(node, Stage.HELD if on_its_way else Stage.REVERTED, now, said)
    if why_unseen(sight, wave) is not None:  # it says why itself
        return node
    if sight.back:
        return replace(node, reasons=sight.back)
    return moved(node, Stage.REVERTING, now, ())


def _rolled_back(wave: Wave, sights: Mapping[str, Sight], now: datetime) -> Wave:
    if any(one.stage not in (Stage.HELD, Stage.REVERTED) for one in wave.nodes):
        return wave
    if any(_may_come_up(one, sights.get(one.name), wave, now) for one in wave.nodes):
        return wave
    return replace(wave, phase=Phase.ROLLED_BACK, ended_at=now)


def _may_come_up(node: WaveNode, sight: Sight | None, wave: Wave, now: datetime) -> bool:
    """Says whether a node that was released may be on its way to the driver.

    It is not if it said so, after it was held again or by being held, and patience ends. One that
    was never released is held since the wave was announced.
    """
    said = any(one.startswith(HAS_OTHER) for one in node.reasons)
    recalled = node.stage is Stage.HELD and node.since > wave.announced_at and not said
    held_for = now - node.since
    if not recalled or held_for > patience(wave):
        return False
    spoke = why_unseen(sight, wave) is None and _silence(sight, held_for) < held_for
    return not spoke or sight is None or sight.driver is None
