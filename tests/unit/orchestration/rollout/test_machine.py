"""What happens next in a wave: what is released, what is held, what stops it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.orchestration.rollout.budget import allowed
from enginekeeper.orchestration.rollout.following import GONE, HELD_ANYWAY, Sight
from enginekeeper.orchestration.rollout.machine import advance, away, resume
from registry.waves.types import Origin, Phase, Role, Stage, Terms, Wave
from tests.factories.waves import (
    BLOCKED,
    BROKEN,
    NEW,
    NO_SOAK,
    NOON,
    OLD,
    ON_NEW,
    READY,
    WAITING,
    later,
    node,
    silent,
    stages,
    wave,
)

BIG = Terms(max_unavailable="2", soak_seconds=60)


def test_qualification_comes_first_and_the_rest_waits_for_its_verdicts() -> None:
    begun = wave(node("a", Role.QUALIFICATION), node("b"), node("c"), terms=NO_SOAK)
    blocked = {"a": BLOCKED, "b": BLOCKED, "c": BLOCKED}

    released = advance(begun, blocked, now=NOON)
    assert stages(released) == {"a": "released", "b": "held", "c": "held"}
    assert released.nodes[1].reasons == BLOCKED.blockers

    taken = advance(released, {**blocked, "a": WAITING}, now=later(60))
    assert (stages(taken)["a"], taken.phase) == ("upgraded", Phase.QUALIFYING)

    judged = advance(taken, {"a": ON_NEW, "b": READY, "c": READY}, now=later(90))
    assert stages(judged) == {"a": "done", "b": "released", "c": "held"}
    assert (judged.phase, judged.nodes[1].role) == (Phase.CANARY, Role.CANARY)
    assert judged.safe_at == later(90)


def test_the_canary_has_to_be_well_for_a_while_before_the_batches() -> None:
    nodes = (node("a", Role.CANARY, Stage.RELEASED), *(node(name) for name in "bcde"))
    begun = wave(*nodes, phase=Phase.CANARY, terms=BIG)
    sights = {**dict.fromkeys("bcde", READY), "a": ON_NEW}

    taken = advance(begun, sights, now=later(10))
    assert (stages(taken)["a"], taken.phase) == ("done", Phase.CANARY)
    assert advance(taken, sights, now=later(69)).phase is Phase.CANARY

    rolling = advance(taken, sights, now=later(70))
    assert rolling.phase is Phase.ROLLING
    assert [one.name for one in rolling.nodes if one.stage is Stage.RELEASED] == ["b", "c"]


def test_the_budget_counts_what_is_away_already_and_so_does_a_broken_node() -> None:
    nodes = [node(name) for name in "abcd"]
    begun = wave(*nodes, phase=Phase.ROLLING, terms=BIG)
    sights = {
        **dict.fromkeys("abcd", READY),
        "d": replace(READY, problems=("NVML does not start",)),
    }
    after = advance(begun, sights, now=NOON)
    assert stages(after) == {"a": "released", "b": "held", "c": "held", "d": "held"}
    assert away(after, sights) == 2


def test_when_every_node_is_done_so_is_the_wave() -> None:
    begun = wave(node("a", stage=Stage.RELEASED), node("b", stage=Stage.DONE), phase=Phase.ROLLING)
    after = advance(begun, {"a": ON_NEW, "b": ON_NEW}, now=later(5))
    assert (after.phase, after.ended_at, after.ended) == (Phase.DONE, later(5), True)


def test_a_canary_soaks_only_while_it_says_that_it_is_well() -> None:
    nodes = (node("a", Role.CANARY, Stage.DONE), node("b"))
    begun = wave(*nodes, phase=Phase.CANARY, terms=BIG)
    seen = {"a": silent(ON_NEW, 70), "b": READY}

    unheard = advance(begun, seen, now=later(70))  # its last word is of the first second
    assert (unheard.phase, stages(unheard)) == (Phase.CANARY, {"a": "done", "b": "held"})
    assert advance(begun, {**seen, "a": silent(ON_NEW, 9)}, now=later(70)).phase is Phase.ROLLING

    gone = advance(begun, {**seen, "a": silent(ON_NEW, 200)}, now=later(200))
    assert (gone.phase, stages(gone)["a"]) == (Phase.CANARY, "upgraded")
    assert gone.nodes[0].reasons == ("not heard for more than 3 minutes",)
    again = advance(gone, {**seen, "a": ON_NEW}, now=later(300))
    assert (again.phase, stages(again)["a"]) == (Phase.CANARY, "done")
    assert advance(again, {**seen, "a": ON_NEW}, now=later(360)).phase is Phase.ROLLING


@pytest.mark.parametrize("stage", [Stage.RELEASED, Stage.UPGRADED, Stage.DONE])
@pytest.mark.parametrize("is_absent", [False, True])
def test_what_falls_silent_is_away_and_fails_when_patience_is_over(
    stage: Stage, is_absent: bool  # noqa: FBT001 - a case
) -> None:  # fmt: skip
    begun = wave(node("a", stage=stage), node("b"), phase=Phase.ROLLING)

    def at(seconds: int) -> dict[str, Sight]:
        return {"b": READY} | ({} if is_absent else {"a": silent(ON_NEW, seconds)})

    after = advance(begun, at(200), now=later(200))
    assert (away(after, at(200)), stages(after)["b"]) == (1, "held")
    later_on = advance(after, at(3801), now=later(3801))
    assert (later_on.phase, stages(later_on)["a"]) == (Phase.STOPPED, "failed")
    assert "a: " in (later_on.reason or "")


def test_a_node_that_waits_for_a_verdict_for_hours_is_given_patience_when_it_falls_silent() -> None:
    begun = wave(node("a", stage=Stage.UPGRADED, reasons=BLOCKED.blockers), phase=Phase.ROLLING)
    quiet = Sight(None, problems=("the driver does not answer",))
    after = advance(begun, {"a": quiet}, now=later(20_000))
    assert (stages(after)["a"], after.phase) == ("upgraded", Phase.ROLLING)
    assert advance(after, {"a": quiet}, now=later(23_601)).phase is Phase.STOPPED


def test_what_was_not_heard_lately_is_not_released() -> None:
    begun = wave(node("a"), phase=Phase.ROLLING)
    after = advance(begun, {"a": silent(READY, 181)}, now=NOON)
    assert stages(after) == {"a": "held"}
    assert after.nodes[0].reasons == ("not heard for more than 3 minutes",)
    never = advance(begun, {"a": replace(READY, silent_for=None)}, now=NOON)
    assert (stages(never), never.nodes[0].reasons) == ({"a": "held"}, ("was never heard",))


@pytest.mark.parametrize(
    ("fields", "stage"),
    [
        ({"places": ("/fleet",)}, "released"),
        ({"places": ("/fleet",), "terms": Terms(stale_after_seconds=3600)}, "held"),
        ({"terms": Terms(stale_after_seconds=30_000)}, "released"),
    ],
)
def test_documents_are_old_after_a_day_and_heartbeats_after_three_minutes_or_as_somebody_says(
    fields: dict[str, Any], stage: str
) -> None:
    begun = wave(node("a"), phase=Phase.ROLLING, **fields)
    assert stages(advance(begun, {"a": silent(READY, 20_000)}, now=NOON)) == {"a": stage}


@pytest.mark.parametrize(
    ("sight", "reason"),
    [
        (BROKEN, "a: GPU 1: GPU is lost"),
        (Sight(None, problems=("the driver does not answer",)), "no driver 595.71.05 after"),
        (None, "no driver 595.71.05 after 3600 s, is not seen any more"),
    ],
)
def test_a_node_that_fails_stops_the_wave_and_holds_what_has_not_begun(
    sight: Sight | None, reason: str
) -> None:
    nodes = (node("a", stage=Stage.RELEASED), node("b", stage=Stage.RELEASED, since=later(3600)))
    begun = wave(*nodes, node("c"), phase=Phase.ROLLING, terms=Terms(max_unavailable="3"))
    sights = {"b": READY, "c": READY} | ({} if sight is None else {"a": sight})

    after = advance(begun, sights, now=later(3601))

    assert (after.phase, reason in (after.reason or "")) == (Phase.STOPPED, True)
    assert stages(after) == {"a": "failed", "b": "held", "c": "held"}
    again = advance(after, sights, now=later(3700))
    assert stages(again) == stages(after)


def test_a_released_node_that_breaks_under_the_driver_it_still_has_stops_the_wave() -> None:
    released = wave(node("a", stage=Stage.RELEASED), node("b", stage=Stage.RELEASED))
    lost = Sight(OLD, problems=("GPU 7: GPU is lost",), running=())
    after = advance(replace(released, phase=Phase.ROLLING), {"a": lost, "b": READY}, now=later(60))
    assert (stages(after), after.phase) == ({"a": "failed", "b": "held"}, Phase.STOPPED)
    assert after.reason == "failed: a: GPU 7: GPU is lost"


def test_a_released_node_without_a_driver_may_be_on_its_way_to_it() -> None:
    released = wave(node("a", stage=Stage.RELEASED), phase=Phase.ROLLING)
    away_now = Sight(None, problems=("NVML does not start",))
    assert stages(advance(released, {"a": away_now}, now=later(60))) == {"a": "released"}


def test_an_engine_that_failed_there_stops_the_wave() -> None:
    begun = wave(node("a", Role.QUALIFICATION, Stage.UPGRADED), node("b"))
    sights = {"a": WAITING, "b": BLOCKED}
    after = advance(begun, sights, failures=("engine abc on H100",), now=NOON)
    assert after.phase is Phase.STOPPED
    assert after.reason == "failed under driver 595.71.05: engine abc on H100"


def test_a_node_whose_driver_is_silent_for_a_moment_has_not_failed() -> None:
    begun = wave(node("a", stage=Stage.DONE), node("b"), phase=Phase.ROLLING)
    silent = {"a": Sight(None, problems=("the driver does not answer",)), "b": READY}
    after = advance(begun, silent, now=later(9000))
    assert (stages(after)["a"], after.phase) == ("upgraded", Phase.ROLLING)
    assert stages(advance(after, {**silent, "a": ON_NEW}, now=later(9060)))["a"] == "done"
    assert advance(after, silent, now=later(9000 + 3601)).phase is Phase.STOPPED


def test_what_is_released_and_loses_its_verdict_is_held_again() -> None:
    begun = wave(node("a", stage=Stage.RELEASED), node("b"), phase=Phase.ROLLING)
    after = advance(begun, {"a": BLOCKED, "b": READY}, now=later(5))
    assert stages(after) == {"a": "held", "b": "released"}
    assert after.nodes[0].reasons == BLOCKED.blockers


@pytest.mark.parametrize(
    ("running", "named", "stage"),
    [
        ((), False, "released"), (("sha256:abc",), True, "held"),
        (None, True, "released"), (None, False, "held"),
    ],
)  # fmt: skip
def test_a_node_qualifies_only_if_it_serves_nothing(
    running: tuple[str, ...] | None, named: bool, stage: str  # noqa: FBT001 - a case
) -> None:  # fmt: skip
    begun = wave(node("a", Role.QUALIFICATION, named=named), node("b"))
    after = advance(begun, {"a": replace(BLOCKED, running=running), "b": BLOCKED}, now=NOON)
    assert stages(after)["a"] == stage


def test_a_held_node_that_got_the_driver_is_flagged_and_stays_up() -> None:
    begun = wave(node("a"), node("b"), phase=Phase.ROLLING)
    after = advance(begun, {"a": WAITING, "b": BLOCKED}, now=NOON)
    assert (stages(after)["a"], after.phase) == ("upgraded", Phase.ROLLING)
    assert after.nodes[0].reasons == (HELD_ANYWAY, *BLOCKED.blockers)


def test_a_stopped_wave_goes_on_when_somebody_says_so() -> None:
    begun = wave(node("a", stage=Stage.RELEASED), node("b"), phase=Phase.ROLLING)
    stopped = advance(begun, {"a": BROKEN, "b": READY}, now=NOON)
    mended = {"a": ON_NEW, "b": READY}
    assert advance(stopped, mended, now=later(1)).phase is Phase.STOPPED

    after = advance(resume(stopped, mended, later(2)), mended, now=later(2))

    assert (after.reason, stages(after)["a"]) == (None, "done")
    assert after.phase in (Phase.CANARY, Phase.ROLLING)


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.ABORTED, Phase.DONE, Phase.ROLLED_BACK])
def test_what_does_not_go_on_releases_nothing_however_ready_it_is(phase: Phase) -> None:
    resting = wave(node("a"), node("b"), phase=phase, terms=BIG)
    assert advance(resting, {"a": READY, "b": READY}, now=NOON).nodes == resting.nodes


def test_a_broken_node_is_not_released_though_its_engines_are_proven() -> None:
    broken = replace(READY, problems=("NVML does not start",))
    for role, phase in ((Role.BATCH, Phase.ROLLING), (Role.QUALIFICATION, Phase.QUALIFYING)):
        begun = wave(node("a", role), phase=phase, terms=Terms(max_unavailable="9"))
        after = advance(begun, {"a": broken}, now=NOON)
        assert (stages(after), after.nodes[0].reasons) == ({"a": "held"}, broken.problems)


def test_a_node_that_nobody_sees_is_not_safe() -> None:
    begun = wave(node("a"), node("b"))
    assert advance(begun, {"a": READY}, now=NOON).safe_at is None
    assert advance(begun, {"a": READY, "b": READY}, now=NOON).safe_at == NOON


@pytest.mark.parametrize(
    "hidden",
    [
        Sight(None, problems=("enrolled, and it has not reported yet",), silent_for=None),
        replace(READY, problems=("GPU 1: GPU is lost",)), silent(READY, 200),
    ],
)  # fmt: skip
def test_a_node_that_hides_its_engines_is_not_safe(hidden: Sight) -> None:
    begun = wave(node("a"), node("b"))
    assert advance(begun, {"a": READY, "b": hidden}, now=NOON).safe_at is None


def test_a_verdict_that_is_lost_ends_safety_until_it_is_back_and_silence_does_not() -> None:
    begun = wave(node("a"), node("b"), terms=NO_SOAK)
    safe = advance(begun, {"a": READY, "b": READY}, now=NOON)
    quiet = advance(safe, {"a": READY, "b": silent(READY, 9000)}, now=later(1))
    assert quiet.safe_at == NOON
    lost = advance(safe, {"a": READY, "b": BLOCKED}, now=later(2))
    assert lost.safe_at is None
    assert advance(lost, {"a": READY, "b": READY}, now=later(3)).safe_at == later(3)
    ended = replace(safe, phase=Phase.DONE)
    assert advance(ended, {"a": BLOCKED, "b": READY}, now=later(4)).safe_at == NOON


def test_a_node_of_a_found_change_that_failed_leaves_it_with_another_driver() -> None:
    nodes = (node("a", stage=Stage.FAILED, reasons=("GPU 1: GPU is lost",)),)
    found = wave(*nodes, phase=Phase.ROLLING, origin=Origin.FOUND)
    assert stages(advance(found, {"a": Sight(None)}, now=later(1))) == {"a": "failed"}
    left = advance(found, {"a": READY}, now=later(1))
    assert (left.phase, stages(left)) == (Phase.DONE, {"a": "reverted"})


def test_a_change_that_every_node_left_again_was_never_safe() -> None:
    found = wave(node("a", stage=Stage.UPGRADED), phase=Phase.ROLLING, origin=Origin.FOUND)
    after = advance(found, {"a": READY}, now=NOON)
    assert (stages(after), after.phase, after.safe_at) == ({"a": "reverted"}, Phase.DONE, None)


def test_who_uses_the_budget_is_named_while_others_wait_for_it() -> None:
    begun = wave(node("a", stage=Stage.DONE), node("b"), node("c"), phase=Phase.ROLLING)
    sights = {"a": ON_NEW, "b": READY, "c": silent(READY, 200)}

    after = advance(begun, sights, now=NOON)

    assert stages(after) == {"a": "done", "b": "held", "c": "held"}
    assert after.reason == "the budget is used by c (not heard for more than 3 minutes)"
    again = advance(after, {**sights, "c": READY}, now=later(1))
    assert (stages(again)["b"], again.reason) == ("released", None)


def test_nobody_waits_for_a_node_that_left_the_fleet() -> None:
    gone = Sight(None, silent_for=None, is_gone=True)
    nodes = (node("a", Role.CANARY, Stage.RELEASED), node("b"), node("c"))
    begun = wave(*nodes, phase=Phase.CANARY, terms=NO_SOAK)

    after = advance(begun, {"a": gone, "b": READY, "c": READY}, now=NOON)
    assert stages(after) == {"a": "reverted", "b": "released", "c": "held"}
    assert (after.nodes[0].reasons, after.nodes[1].role) == ((GONE,), Role.CANARY)
    assert after.safe_at == NOON
    for at, name in enumerate("bc", 1):
        after = advance(after, {"a": gone, "b": ON_NEW, "c": READY, name: ON_NEW}, now=later(at))
    assert after.phase is Phase.DONE
    assert advance(after, {"a": gone, "b": gone, "c": ON_NEW}, now=later(9)) == after

    back = advance(begun, {"a": gone, "b": READY, "c": READY}, now=NOON)
    enrolled = advance(back, {"a": READY, "b": READY, "c": READY}, now=later(1))
    assert stages(enrolled)["a"] == "held"


def test_a_change_that_was_found_is_over_when_its_nodes_left_the_fleet() -> None:
    gone = node("a", stage=Stage.REVERTED, reasons=(GONE,))
    found = wave(gone, node("b", stage=Stage.UPGRADED), phase=Phase.ROLLING, origin=Origin.FOUND)
    after = advance(found, {"a": READY, "b": ON_NEW}, now=NOON)
    assert (stages(after), after.phase) == ({"a": "reverted", "b": "done"}, Phase.DONE)


def test_a_change_that_was_found_releases_nothing_and_stops_nothing() -> None:
    nodes = (node(name, stage=Stage.UPGRADED, previous_driver=None) for name in "abc")
    begun = wave(*nodes, phase=Phase.ROLLING, origin=Origin.FOUND)
    after = advance(begun, {"a": WAITING, "b": READY, "c": BROKEN}, failures=("x",), now=NOON)
    assert stages(after) == {"a": "upgraded", "b": "reverted", "c": "failed"}
    assert (after.phase, after.safe_at) == (Phase.ROLLING, None)

    over = advance(after, {"a": ON_NEW, "b": BLOCKED, "c": ON_NEW}, now=later(9))
    assert stages(over) == {"a": "done", "b": "reverted", "c": "done"}
    assert (over.phase, over.safe_at) == (Phase.DONE, later(9))

    again = advance(after, {"a": ON_NEW, "b": WAITING, "c": BROKEN}, now=later(9))
    assert stages(again)["b"] == "upgraded"


@pytest.mark.parametrize(
    ("text", "nodes", "found"),
    [("1", 9, 1), ("25%", 9, 2), ("25%", 3, 1), ("100%", 7, 7), ("40", 3, 40)],
)
def test_a_budget_is_a_number_or_a_share_rounded_down(text: str, nodes: int, found: int) -> None:
    assert allowed(text, nodes) == found


@pytest.mark.parametrize("text", ["0", "0%", "101%", "", "-1", "1.5", "a%", "٣", "9999999"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a budget"):
        allowed(text, 4)


# -- for any wave -------------------------------------------------------------------------------

REASONS = st.sampled_from([(), ("x: not-judged-there",)])
RUNNING = st.sampled_from([None, (), ("sha256:abc",)])
SIGHTS = st.builds(
    Sight, st.sampled_from([OLD, OLD, OLD, NEW, None]), REASONS,
    st.sampled_from([(), ("GPU 0: lost",)]),
    RUNNING, REASONS,
    st.sampled_from([*[timedelta(0)] * 4, timedelta(seconds=200), timedelta(seconds=5000), None]),
    st.sampled_from([*[False] * 9, True]),
)  # fmt: skip
NAMES = ("a", "b", "c", "d", "e", "f")
NODES = st.builds(
    lambda name, role, stage, age, named: node(name, role, stage, since=later(-age), named=named),
    st.just("?"), st.sampled_from(Role), st.sampled_from([Stage.HELD] * 6 + [*Stage]),
    st.sampled_from([0, 700, 4000]),
    st.booleans(),
)  # fmt: skip
WAVES = st.builds(
    lambda nodes, phase, budget, canary, origin: wave(
        *(replace(one, name=name) for one, name in zip(nodes, NAMES, strict=False)),
        phase=phase, terms=Terms(max_unavailable=budget, canary=canary), origin=origin,
    ),
    st.lists(NODES, min_size=1, max_size=6),
    st.sampled_from([Phase.QUALIFYING, Phase.CANARY, Phase.ROLLING] * 3 + [*Phase]),
    st.sampled_from(["1", "2", "50%", "100%"]), st.integers(0, 3),
    st.sampled_from([Origin.PLANNED, Origin.PLANNED, Origin.FOUND]),
)  # fmt: skip
SEEN = st.dictionaries(st.sampled_from(NAMES), SIGHTS)


def for_any_wave(promise: Callable[..., None]) -> Callable[..., None]:
    """Asks of any wave, and of anything seen of its nodes, whether a promise holds."""
    return settings(max_examples=400, deadline=None)(given(WAVES, SEEN)(promise))


def newly(before: Wave, after: Wave, stage: Stage) -> set[str]:
    was = {one.name: one.stage for one in before.nodes}
    return {one.name for one in after.nodes if one.stage is stage is not was[one.name]}


@for_any_wave
def test_nothing_is_released_with_an_engine_that_is_not_qualified_unless_it_serves_nothing(
    begun: Wave, sights: dict[str, Sight]
) -> None:
    after = advance(begun, sights, now=NOON)
    for name in newly(begun, after, Stage.RELEASED):
        (one,) = (found for found in after.nodes if found.name == name)
        seen = sights[name]
        drained = seen.running == () or (seen.running is None and one.named)
        assert not seen.problems
        assert not seen.is_gone
        assert seen.silent_for == timedelta(0)
        assert not seen.blockers or (one.role is Role.QUALIFICATION and drained)
    for name in newly(begun, after, Stage.REVERTING):
        assert not sights[name].back
        assert sights[name].silent_for == timedelta(0)


@for_any_wave
def test_no_node_is_lost_and_a_second_look_changes_nothing(
    begun: Wave, sights: dict[str, Sight]
) -> None:
    after = advance(begun, sights, now=NOON)
    assert [one.name for one in after.nodes] == [one.name for one in begun.nodes]
    assert advance(after, sights, now=NOON) == after


@for_any_wave
def test_the_budget_is_never_exceeded_by_what_is_released(
    begun: Wave, sights: dict[str, Sight]
) -> None:
    after = advance(begun, sights, now=NOON)
    serving = {one.name for one in after.nodes if one.role is not Role.QUALIFICATION}
    budget = allowed(begun.terms.max_unavailable, len(begun.nodes))
    if newly(begun, after, Stage.RELEASED) & serving:
        assert away(after, sights) <= budget
    if newly(begun, after, Stage.REVERTING):
        assert sum(one.stage is Stage.REVERTING for one in after.nodes) <= budget


@for_any_wave
def test_a_wave_that_does_not_go_forward_releases_nothing(
    begun: Wave, sights: dict[str, Sight]
) -> None:
    after = advance(begun, sights, now=NOON)
    going = after.phase in (Phase.QUALIFYING, Phase.CANARY, Phase.ROLLING)
    if not going or begun.origin is Origin.FOUND:
        assert newly(begun, after, Stage.RELEASED) == set()
    if after.phase is not Phase.ROLLING_BACK and begun.phase is not Phase.ROLLING_BACK:
        assert newly(begun, after, Stage.REVERTING) == set()


@settings(max_examples=400, deadline=None)
@given(WAVES, SEEN, st.sets(st.sampled_from(NAMES)))
def test_more_qualifications_never_hold_more(
    begun: Wave, sights: dict[str, Sight], qualified: set[str]
) -> None:
    more: Mapping[str, Sight] = {
        name: replace(one, blockers=() if name in qualified else one.blockers)
        for name, one in sights.items()
    }
    held, fewer = (
        sum(one.stage is Stage.HELD for one in advance(begun, seen, now=NOON).nodes)
        for seen in (sights, more)
    )
    assert fewer <= held
