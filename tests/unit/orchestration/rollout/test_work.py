"""The work of a wave: what a plan has it now, the gravest where platforms need different things."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from enginekeeper.compatibility.decision import Decision, Judgement
from enginekeeper.compatibility.placing import Effect
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.nodes import NodeFacts, NodeShape
from enginekeeper.orchestration.rollout.work import needed
from enginekeeper.orchestration.waves import DriverChange, FleetEngine, WavePlan, plan_wave
from registry.digests import digest_bytes
from registry.types import Result
from registry.waves.types import WaveWork, WorkState
from tests.factories.gpu_engines import H100, gpu_key
from tests.factories.waves import NEW, NOON, later, wave

R595 = DriverChange.to(NEW, on=NOON.date())
ENGINE = FleetEngine(
    str(digest_bytes(b"engine")), gpu_key("w"), "m.fp8.tp1", 10**9, (Judgement(H100, Result.PASS),)
)


def planned(*actions: Effect) -> WavePlan:
    """Returns a plan with a group of one engine and GPU for each action, as plans order them."""
    shape = NodeShape((GpuKind(H100.product, "9.0"),), "linux", "x86_64")
    nodes = [NodeFacts("a", "580.95.05", shape, (ENGINE.digest,))]
    plan = plan_wave(nodes, {ENGINE.digest: ENGINE}, R595)
    (group,) = plan.groups
    groups = tuple(
        replace(group, os=f"os-{number}", decision=Decision(action, (), ()))
        for number, action in enumerate(actions)
    )
    return replace(plan, groups=groups)


def work_of(plan: WavePlan, *known: WaveWork) -> WaveWork:
    (one,) = needed(wave(work=known), plan, later(60))
    return one


def test_what_one_platform_needs_is_done_though_another_reuses_the_engine() -> None:
    one = work_of(planned(Effect.REBUILD, Effect.REUSE))
    assert (one.action, one.state) == ("rebuild", WorkState.WAITING)
    assert work_of(planned(Effect.REBUILD, Effect.REUSE), one) == one


def test_what_was_asked_for_and_does_not_do_any_more_is_asked_for_anew() -> None:
    judging = replace(
        work_of(planned(Effect.REVALIDATE)), state=WorkState.DISPATCHED, attempt=1, run="r",
        changed_at=NOON - timedelta(hours=1),
    )  # fmt: skip
    assert work_of(planned(Effect.REVALIDATE), judging) == judging
    one = work_of(planned(Effect.REBUILD), judging)
    assert (one.action, one.state, one.run) == ("rebuild", WorkState.WAITING, None)
    assert one.changed_at == later(60)


def test_what_is_not_needed_any_more_is_done_and_waits_when_it_is_again() -> None:
    done = work_of(planned(Effect.REUSE), work_of(planned(Effect.REVALIDATE)))
    assert done.state is WorkState.DONE
    assert work_of(planned(Effect.REVALIDATE), done).state is WorkState.WAITING
