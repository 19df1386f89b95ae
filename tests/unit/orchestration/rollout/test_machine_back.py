"""A wave on its way back: what it waits for, and within which budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from enginekeeper.orchestration.rollout.following import HELD_ANYWAY, Sight
from enginekeeper.orchestration.rollout.machine import advance, resume, stop, turn_back
from registry.waves.types import Phase, Role, Stage, Terms
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


def test_an_aborted_wave_holds_what_was_released_and_keeps_what_has_the_driver() -> None:
    nodes = (node("a", stage=Stage.DONE), node("b", stage=Stage.RELEASED), node("c"))
    after = stop(wave(*nodes, phase=Phase.ROLLING), Phase.ABORTED, "no more", later(9))
    assert stages(after) == {"a": "done", "b": "held", "c": "held"}
    assert (after.ended_at, after.reason) == (later(9), "no more")


def test_the_way_back_is_taken_within_the_budget_and_only_to_what_is_qualified() -> None:
    had_it = node("z", stage=Stage.DONE, previous_driver=NEW)
    nodes = (*(node(name, stage=Stage.DONE) for name in "abc"), node("d"), had_it)
    begun = turn_back(wave(*nodes, phase=Phase.DONE, ended_at=NOON), "slow", NOON)
    sights = {
        "a": ON_NEW, "b": replace(ON_NEW, back=("engine was revoked",)), "c": ON_NEW, "d": READY,
        "z": ON_NEW,
    }  # fmt: skip

    after = advance(begun, sights, now=later(1))
    assert stages(after) == {
        "a": "reverting", "b": "done", "c": "done", "d": "held", "z": "reverted",
    }  # fmt: skip
    assert after.nodes[1].reasons == ("engine was revoked",)

    after = advance(after, {**sights, "a": READY, "b": ON_NEW}, now=later(2))
    assert stages(after)["a"] == "reverted"
    assert [one for one in stages(after).values() if one == "reverting"] == ["reverting"]
    for second in (3, 4):
        after = advance(after, {**dict.fromkeys("abcd", READY), "z": ON_NEW}, now=later(second))
    assert (after.phase, after.ended_at) == (Phase.ROLLED_BACK, later(3))


def test_on_the_way_back_too_the_budget_counts_what_is_away_and_the_broken_go_first() -> None:
    nodes = (node("a", stage=Stage.FAILED), *(node(name, stage=Stage.DONE) for name in "bcd"))
    begun = wave(*nodes, phase=Phase.ROLLING_BACK)
    sights = {"b": ON_NEW, "c": BROKEN, "d": ON_NEW}  # and nobody sees a
    after = advance(begun, sights, now=later(1))
    assert stages(after) == {"a": "failed", "b": "done", "c": "reverting", "d": "done"}


def test_a_node_that_does_not_come_back_on_the_way_back_says_so() -> None:
    begun = wave(
        node("a", stage=Stage.REVERTING), node("b", stage=Stage.DONE), phase=Phase.ROLLING_BACK
    )
    after = advance(begun, {"a": silent(ON_NEW, 9000), "b": ON_NEW}, now=later(3601))
    assert stages(after) == {"a": "reverting", "b": "done"}
    assert after.nodes[0].reasons == (
        f"no driver {OLD} after 3600 s", "not heard for more than 3 minutes",
    )  # fmt: skip
    assert after.nodes[0].since == NOON


def test_a_wave_is_not_back_while_a_node_that_it_released_may_come_up() -> None:
    rolling = wave(node("a", stage=Stage.RELEASED), node("b"), phase=Phase.ROLLING)
    begun = turn_back(rolling, "tokens are wrong", later(1))
    starting = Sight(None, problems=("the driver does not answer",))

    unheard = advance(begun, {"a": silent(READY, 30), "b": READY}, now=later(9))
    assert unheard.phase is Phase.ROLLING_BACK  # it has not spoken since it was held again
    waiting = advance(begun, {"a": starting, "b": READY}, now=later(60))
    assert (waiting.phase, stages(waiting)["a"]) == (Phase.ROLLING_BACK, "held")

    up = advance(waiting, {"a": WAITING, "b": READY}, now=later(100))
    assert (up.phase, stages(up)["a"]) == (Phase.ROLLING_BACK, "reverting")
    assert advance(up, {"a": READY, "b": READY}, now=later(200)).phase is Phase.ROLLED_BACK

    still = advance(waiting, {"a": READY, "b": READY}, now=later(100))
    assert (still.phase, stages(still)["a"]) == (Phase.ROLLED_BACK, "held")
    assert advance(waiting, {"b": READY}, now=later(3700)).phase is Phase.ROLLED_BACK


def test_a_wave_is_not_back_while_what_lost_its_verdict_after_its_release_may_come_up() -> None:
    begun = wave(node("a", stage=Stage.RELEASED), node("b"), phase=Phase.ROLLING, terms=NO_SOAK)
    held = advance(begun, {"a": BLOCKED, "b": BLOCKED}, now=later(60))
    assert stages(held) == {"a": "held", "b": "held"}
    quiet = replace(READY, silent_for=timedelta(seconds=100))
    back = turn_back(held, "slow", later(70))
    again = advance(back, {"a": quiet, "b": quiet}, now=later(80))
    assert again.phase is Phase.ROLLING_BACK
    spoke = advance(again, {"a": READY, "b": quiet}, now=later(90))
    assert spoke.phase is Phase.ROLLED_BACK
    risen = advance(again, {"a": ON_NEW, "b": quiet}, now=later(90))
    assert (risen.phase, stages(risen)["a"]) == (Phase.ROLLING_BACK, "reverting")


def test_a_wave_is_not_back_while_what_broke_after_its_release_may_come_up() -> None:
    begun = wave(node("a", stage=Stage.RELEASED), node("b"), phase=Phase.ROLLING, terms=NO_SOAK)
    lost = Sight(OLD, problems=("GPU 7: GPU is lost",), running=())
    stopped = advance(begun, {"a": lost, "b": BLOCKED}, now=later(60))
    back = turn_back(stopped, "slow", later(70))
    again = advance(back, {"a": silent(lost, 100), "b": BLOCKED}, now=later(80))
    assert (again.phase, stages(again)["a"]) == (Phase.ROLLING_BACK, "held")
    spoke = advance(again, {"a": lost, "b": BLOCKED}, now=later(90))
    assert spoke.phase is Phase.ROLLED_BACK
    risen = advance(again, {"a": ON_NEW, "b": BLOCKED}, now=later(90))
    assert (risen.phase, stages(risen)["a"]) == (Phase.ROLLING_BACK, "reverting")


def test_what_may_go_back_and_loses_its_verdict_there_is_held_again() -> None:
    begun = wave(node("a", stage=Stage.REVERTING), phase=Phase.ROLLING_BACK)
    lost = replace(ON_NEW, back=("engine was revoked",))
    after = advance(begun, {"a": lost}, now=NOON)
    assert (stages(after), after.nodes[0].reasons) == ({"a": "done"}, lost.back)
    assert not after.frees(after.nodes[0])


def test_a_wave_that_goes_back_is_not_said_to_be_safe() -> None:
    nodes = (node("a", Role.QUALIFICATION), node("b", Role.BATCH, Stage.FAILED))
    begun = wave(*nodes, phase=Phase.ROLLING_BACK)
    sights = {"a": READY, "b": Sight(OLD)}

    after = advance(begun, sights, now=NOON)

    assert advance(after, sights, now=later(60)).safe_at is None


def test_a_node_goes_back_to_the_driver_that_it_was_seen_with_last_before_its_release() -> None:
    patched = "580.105.08"
    unheard = node("b", previous_driver=None)  # enrolled, and silent when the wave began
    begun = wave(node("a"), unheard, phase=Phase.ROLLING, terms=Terms(max_unavailable="2"))
    said = {"a": replace(READY, driver=patched), "b": READY}
    released = advance(begun, said, now=later(10))
    assert stages(released) == {"a": "released", "b": "released"}

    taken = advance(released, {"a": ON_NEW, "b": ON_NEW}, now=later(60))
    back = advance(turn_back(taken, "slow", later(90)), {"a": ON_NEW, "b": ON_NEW}, now=later(90))
    assert stages(back) == {"a": "reverting", "b": "reverting"}
    assert [one.previous_driver for one in back.nodes] == [patched, OLD]


def test_a_node_that_was_put_back_stops_the_wave_until_somebody_resumes_it() -> None:
    begun = wave(node("a", stage=Stage.DONE), node("b"), phase=Phase.ROLLING, terms=NO_SOAK)
    seen = {"a": READY, "b": READY}
    after = advance(begun, seen, now=later(60))
    assert (after.phase, stages(after)) == (Phase.STOPPED, {"a": "failed", "b": "held"})
    assert after.reason == f"failed: a: had driver {NEW}, and has driver {OLD} now"
    assert advance(after, seen, now=later(9999)) == after

    again = advance(resume(after, seen, later(10000)), seen, now=later(10000))
    assert stages(again) == {"a": "released", "b": "held"}


def test_a_held_node_that_got_the_driver_may_be_put_back_and_so_may_any_of_a_stopped_wave() -> None:
    flagged = node("a", stage=Stage.UPGRADED, reasons=(HELD_ANYWAY, *BLOCKED.blockers))
    after = advance(wave(flagged, phase=Phase.ROLLING), {"a": BLOCKED}, now=later(60))
    assert (after.phase, stages(after)) == (Phase.ROLLING, {"a": "held"})

    stopped = wave(node("a", stage=Stage.DONE), phase=Phase.STOPPED)
    assert stages(advance(stopped, {"a": READY}, now=later(60))) == {"a": "held"}
