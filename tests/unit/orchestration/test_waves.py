"""What a driver wave would do: decided once for what is alike, and right for every node."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.compatibility.cuda import Toolkit, cuda_table
from enginekeeper.compatibility.decision import Judgement, decide
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind, meant_for, runtime_of
from enginekeeper.fleet.interface import GpuProcess, LostDevice
from enginekeeper.fleet.inventory import Evidence, RunningEngine
from enginekeeper.fleet.nodes import NodeFacts, NodeShape, facts_of
from enginekeeper.orchestration.waves import (
    DriverChange,
    FleetEngine,
    WavePlan,
    plan_document,
    plan_wave,
)
from registry.digests import digest_bytes
from registry.environments import GpuEnvironment
from registry.types import Result
from tests.factories.gpu_engines import H100, gpu_key
from tests.factories.inventories import device, inventory, on_disk

TODAY = date(2026, 11, 26)
R595 = DriverChange.to("595.71.05", on=TODAY)
H100_KIND = GpuKind(H100.product, "9.0")
L4_KIND = GpuKind("NVIDIA L4", "8.9")
ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")


def engine(name: str, *passed: GpuEnvironment, **fields: Any) -> FleetEngine:  # noqa: ANN401 - its fields
    key = fields.pop("key", gpu_key("w", recipe=name))
    judged = tuple(Judgement(one, Result.PASS) for one in passed)
    return FleetEngine(
        str(digest_bytes(name.encode())), key, f"m.{name}.tp1", 10**9, judged, **fields
    )


def node(name: str, *engines: FleetEngine, **fields: Any) -> NodeFacts:  # noqa: ANN401 - its fields
    shape = NodeShape(fields.pop("kinds", (H100_KIND,)), "linux", "x86_64")
    digests = tuple(sorted(one.digest for one in engines))
    return NodeFacts(name, fields.pop("driver", "580.95.05"), shape, digests, **fields)


def planned(
    nodes: list[NodeFacts], *known: FleetEngine, change: DriverChange = R595
) -> WavePlan:  # fmt: skip
    return plan_wave(nodes, {one.digest: one for one in known}, change)


OLD, NEW = engine("old", H100), engine("new", H100, ON_R595)


def test_what_passed_on_the_new_driver_is_reused_and_its_node_is_ready() -> None:
    plan = planned([node("a", NEW)], NEW)
    assert [group.action for group in plan.groups] == [Effect.REUSE]
    assert (plan.ready, plan.held, plan.refused) == (("a",), (), False)
    assert (plan.build_gpu_hours, plan.bytes) == (0.0, 0)


def test_one_engine_that_must_be_judged_holds_its_node_and_no_other() -> None:
    plan = planned([node("a", NEW, OLD), node("b", NEW), node("c", OLD)], NEW, OLD)
    assert [(group.action, group.nodes) for group in plan.groups] == [
        (Effect.REVALIDATE, ("a", "c")), (Effect.REUSE, ("a", "b")),
    ]  # fmt: skip
    (held,) = plan.held
    assert (held.nodes, plan.ready) == (("a", "c"), ("b",))
    assert held.reasons[0].endswith("not-judged-there")


def test_a_thousand_nodes_that_are_alike_are_one_decision() -> None:
    plan = planned([node(f"n{index:04d}", OLD) for index in range(1000)], OLD)
    (group,) = plan.groups
    assert len(group.nodes) == 1000


def test_a_new_cuda_is_a_build_with_its_hours_and_bytes() -> None:
    change = DriverChange.to("595.71.05", cuda="13.2", on=TODAY)
    timed = engine("timed", H100, build_gpu_seconds=7200.0)
    plan = planned([node("a", timed), node("b", timed)], timed, change=change)
    assert (plan.groups[0].action, plan.build_gpu_hours, plan.bytes) == (
        Effect.REBUILD,
        2.0,
        2 * 10**9,
    )
    untimed = engine("untimed", H100)
    plan = planned([node("a", timed, untimed)], timed, untimed, change=change)
    assert (plan.build_gpu_hours, plan_document(plan)["build_gpu_hours"]) == (None, None)


def test_a_build_of_one_key_for_one_gpu_is_counted_once() -> None:
    change = DriverChange.to("595.71.05", cuda="13.2", on=TODAY)
    key = gpu_key("w")
    twins = [engine(name, H100, key=key, build_gpu_seconds=3600.0) for name in ("one", "other")]
    plan = planned([node("a", *twins)], *twins, change=change)
    assert (len(plan.groups), plan.build_gpu_hours) == (2, 1.0)


def test_an_engine_whose_cuda_the_driver_does_not_run_is_refused() -> None:
    plan = planned([node("a", OLD)], OLD, change=DriverChange.to("570.124.06", on=TODAY))
    assert plan.refused
    assert plan.groups[0].decision.deciding[0].rule.identifier == "driver-runs-cuda"


def test_what_failed_on_the_new_driver_is_refused_and_outweighs_the_rest() -> None:
    failed = replace(OLD, judgements=(Judgement(ON_R595, Result.FAIL), *OLD.judgements))
    plan = planned([node("a", failed, NEW)], failed, NEW)
    assert [group.action for group in plan.groups] == [Effect.REFUSE, Effect.REUSE]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"problems": ("GPU 0: GPU is lost",)}, "GPU is lost"),
        ({"kinds": (), "problems": ("the driver does not answer",)}, "for a GPU, and none answers"),
    ],
)
def test_a_node_that_cannot_be_judged_is_held(fields: dict[str, Any], reason: str) -> None:
    (held,) = planned([node("a", NEW, **fields)], NEW).held
    assert any(reason in one for one in held.reasons)


def test_a_node_whose_nvml_does_not_start_is_held_and_not_taken_for_one_without_a_gpu() -> None:
    silent = node("a", kinds=(), driver=None, problems=("NVML does not start",))
    plan = planned([silent])
    assert (plan.held[0].nodes, plan.untouched) == (("a",), ())


def test_engines_that_are_unknown_or_withdrawn_hold_their_node() -> None:
    quarantined = replace(NEW, withdrawn="quarantined by anna: wrong answers")
    for known, word in (([], "not in the catalogue"), ([quarantined], "quarantined by anna")):
        plan = planned([node("a", NEW)], *known)
        assert word in plan.held[0].reasons[0]
        assert plan.groups == ()


def test_engines_for_cpus_and_nodes_without_a_gpu_are_not_touched() -> None:
    fields = {"gpu_product": None, "compute_capability": None, "cuda_runtime": None}
    on_cpu = engine("cpu", key=gpu_key("w", instruction_set=["avx2"], torch="2", **fields))
    plan = planned([node("a", on_cpu), node("b", on_cpu, kinds=(), driver=None)], on_cpu)
    assert (plan.ready, plan.untouched, plan.groups) == (("a",), ("b",), ())


def test_on_a_mixed_node_an_engine_is_asked_about_on_its_own_gpu() -> None:
    plan = planned([node("a", NEW, kinds=(L4_KIND, H100_KIND))], NEW)
    assert [group.kind for group in plan.groups] == [H100_KIND]


@pytest.mark.parametrize("known", [NEW, OLD])
def test_a_gpu_that_fell_off_a_mixed_node_is_not_answered_with_a_build(known: FleetEngine) -> None:
    left = facts_of(
        inventory(
            "a", [on_disk(known.digest)], lost=(LostDevice(1, "GPU is lost"),),
            devices=(device(0, "NVIDIA L4", compute_capability="8.9"),),
        )
    )  # fmt: skip
    plan = planned([left], known)
    assert plan.groups == ()
    assert (plan.build_gpu_hours, plan.ready) == (0.0, ())
    assert f"is for {H100.product}, and not every GPU here answers" in plan.held[0].reasons[-1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mig": None, "unread": {"mig": "Insufficient Permissions"}}, "Insufficient Permissions"),
        ({"mig": None}, "no reason given"),
        ({"mig": True, "unread": {"slices": "Unknown Error"}}, "MIG slices"),
    ],
)
def test_a_gpu_that_may_be_split_holds_its_node(fields: dict[str, Any], said: str) -> None:
    split = facts_of(inventory("a", [on_disk(NEW.digest)], devices=(device(**fields),)))
    (held,) = planned([split], NEW).held
    assert any(said in one for one in held.reasons)


def test_a_gpu_without_mig_says_so_and_holds_nothing() -> None:
    whole = device(mig=None, unread={"mig": "Not Supported"})
    found = facts_of(inventory("a", [on_disk(NEW.digest)], devices=(whole,)))
    assert planned([found], NEW).ready == ("a",)


def test_what_serves_on_a_node_is_what_it_ran_and_what_nvml_shows_besides() -> None:
    runs = RunningEngine(
        OLD.digest, "/engines/m", 7, "2026-11-26T03:00:00+00:00", Evidence.DECLARED
    )
    busy = device(processes=(GpuProcess(7, None), GpuProcess(8, None)))
    found = facts_of(inventory("a", devices=(busy,), running=(runs,)))
    assert found.running == (OLD.digest, "process 8 on GPU 0")
    assert facts_of(inventory("a")).running == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 1}, {"runs_problem": "x.json: damaged"}, {"problem": "NVML does not start"},
        {"gpu_source": "gfd"}, {"lost": (LostDevice(0, "GPU is lost"),)},
        {"devices": (device(unread={"processes": "Insufficient Permissions"}),)},
    ],
)  # fmt: skip
def test_nobody_says_that_a_node_is_idle_where_not_all_is_told(fields: dict[str, Any]) -> None:
    assert facts_of(inventory("a", **fields)).running is None


def test_hours_that_nobody_recorded_are_not_known_and_not_zero() -> None:
    plan = planned([node("a", NEW)], NEW)
    assert (plan.build_gpu_hours, plan.judging_gpu_hours) == (0.0, 0.0)
    plan = planned([node("a", NEW, OLD)], NEW, OLD)
    assert (plan.build_gpu_hours, plan.judging_gpu_hours) == (0.0, None)
    assert [one["judging_gpu_hours"] for one in plan_document(plan)["groups"]] == [None, 0.0]


@pytest.mark.parametrize("name", ["cuda", "cuda_driver"])
def test_a_cuda_without_its_minor_has_to_be_told(name: str) -> None:
    with pytest.raises(InputError, match="has no minor"):
        DriverChange.to("595.71.05", on=TODAY, **{name: "13"})


def test_nodes_that_have_the_driver_already_are_counted() -> None:
    plan = planned([node("a", OLD, driver="595.71.05"), node("b", OLD)], OLD)
    assert (plan.already, plan.held[0].nodes) == (1, ("a", "b"))


def test_a_driver_whose_cuda_is_not_known_has_to_be_told() -> None:
    with pytest.raises(InputError, match="not in the table") as caught:
        DriverChange.to("620.10.01", on=TODAY)
    assert "--cuda-driver" in str(caught.value)
    assert DriverChange.to("620.10.01", cuda_driver="13.4", on=TODAY).driver.cuda == "13.4"
    assert R595.driver.cuda == "13.2"


@pytest.mark.parametrize("text", ["", "R595", "595.71.05-beta", "595;rm"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a driver version"):
        DriverChange.to(text, on=TODAY)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("595.71.5", "595.71.05"), ("595.071.05", "595.71.05"), ("0595.71.05", "595.71.05"),
        ("595.71.005", "595.71.05"), ("595.71.0", "595.71.00"), ("595", "all of it"),
    ],
)  # fmt: skip
def test_a_driver_that_no_node_can_report_is_not_announced(text: str, meant: str) -> None:
    with pytest.raises(InputError, match="spells its version") as caught:
        DriverChange.announced(text, on=TODAY)
    assert meant in str(caught.value)


@pytest.mark.parametrize("toolkit", cuda_table().toolkits, ids=lambda one: str(one.driver))
def test_drivers_are_announced_as_nvidia_spells_them(toolkit: Toolkit) -> None:
    assert DriverChange.announced(toolkit.driver, on=TODAY).driver.version == toolkit.driver


def test_the_facts_of_an_inventory_say_all_that_is_wrong() -> None:
    found = facts_of(
        inventory(
            "n", [on_disk(OLD.digest), on_disk(NEW.digest, "CHANGED"), on_disk(OLD.digest)],
            devices=(device(), device(1)), engines_problem="x.json: damaged",
        )
    )  # fmt: skip
    assert found.shape == NodeShape((H100_KIND,), "linux", "x86_64")
    assert found.engines == tuple(sorted({OLD.digest, NEW.digest}))
    assert [one.partition(" ")[0] for one in found.problems] == ["x.json:", "engine"]


# -- for any fleet ------------------------------------------------------------------------------

KINDS = (H100_KIND, L4_KIND, GpuKind(H100.product, "9.0", "1g.10gb"))
ENGINES = [
    engine("a", H100), engine("b", H100, ON_R595), engine("c"),
    engine("d", key=gpu_key("w", gpu_product="NVIDIA L4", compute_capability="8.9")),
    engine("e", key=gpu_key("w", cuda_runtime="12.9", recipe="e")),
    engine("f", withdrawn="revoked"),
]  # fmt: skip
NODES = st.lists(
    st.builds(
        NodeFacts,
        st.uuids().map(str),
        st.sampled_from(["580.95.05", "595.71.05", None]),
        st.builds(
            NodeShape,
            st.lists(st.sampled_from(KINDS), max_size=2, unique=True).map(tuple),
            st.just("linux"),
            st.sampled_from(["x86_64", "aarch64"]),
        ),
        st.lists(st.sampled_from([*(one.digest for one in ENGINES), str(digest_bytes(b"?"))]),
                 max_size=3, unique=True).map(lambda names: tuple(sorted(names))),
        st.sampled_from([(), ("GPU 0: lost",)]),
    ),
    max_size=12,
)  # fmt: skip
CHANGES = st.builds(
    lambda driver, cuda: DriverChange.to(driver, cuda=cuda, on=TODAY),
    st.sampled_from(["570.124.06", "580.95.05", "595.71.05"]),
    st.sampled_from([None, "13.0", "13.2"]),
)


def may_be_upgraded(one: NodeFacts, change: DriverChange) -> bool:
    """Decides about one node by itself, the long way."""
    known = {each.digest: each for each in ENGINES}
    if one.problems or any(digest not in known for digest in one.engines):
        return False
    for digest in one.engines:
        each = known[digest]
        kinds = meant_for(each.key, one.shape.kinds)
        if each.withdrawn or not kinds:
            return False
        for kind in kinds:
            runtime = change.cuda_runtime or runtime_of(each.key, change.driver)
            place = Place(
                kind.under(change.driver, runtime), os=one.shape.os,
                cpu_architecture=one.shape.cpu_architecture, on=TODAY,
            )  # fmt: skip
            if decide(each.key, each.judgements, place).action is not Effect.REUSE:
                return False
    return True


@settings(max_examples=200, deadline=None)
@given(NODES, CHANGES)
def test_every_node_is_in_one_place_and_ready_only_if_all_of_it_is(
    nodes: list[NodeFacts], change: DriverChange
) -> None:
    plan = planned(nodes, *ENGINES, change=change)
    held = [name for one in plan.held for name in one.nodes]
    assert sorted([*held, *plan.ready, *plan.untouched]) == sorted(one.name for one in nodes)
    for one in nodes:
        if one.name not in plan.untouched:
            assert (one.name in plan.ready) is may_be_upgraded(one, change)
    assert all(one.reasons for one in plan.held)


@settings(max_examples=100, deadline=None)
@given(NODES, CHANGES, st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_changes_nothing(
    nodes: list[NodeFacts], change: DriverChange, random: Any  # noqa: ANN401 - random.Random
) -> None:  # fmt: skip
    shuffled = list(nodes)
    random.shuffle(shuffled)
    assert planned(shuffled, *ENGINES, change=change) == planned(nodes, *ENGINES, change=change)


@settings(max_examples=100, deadline=None)
@given(NODES, st.sampled_from(ENGINES))
def test_a_new_pass_never_holds_a_node_that_was_ready(
    nodes: list[NodeFacts], judged: FleetEngine
) -> None:
    passed = replace(judged, judgements=(Judgement(ON_R595, Result.PASS), *judged.judgements))
    others = [one for one in ENGINES if one is not judged]
    before, after = planned(nodes, *ENGINES), planned(nodes, *others, passed)
    assert set(before.ready) <= set(after.ready)
