"""Drift asks the one decision: an engine is out of place exactly where that is not to reuse it."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.compatibility.decision import Judgement, decide
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.placing import Effect
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.drift import OPAQUE, DriftKind, Judge, KnownEngine
from enginekeeper.orchestration.waves import FleetEngine
from registry.environments import DriverScope, GpuEnvironment
from registry.keys import HARD_FIELDS, EngineKey
from registry.types import Result

PRODUCTS = (("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA L4", "8.9"))
DRIVERS = (("580.95.05", "13.0"), ("535.183.01", "12.2"), ("595.71.05", "13.2"))
DAY = date(2026, 11, 26)

kinds = st.sampled_from([GpuKind(*one) for one in PRODUCTS])
drivers = st.sampled_from([DriverState(*one) for one in DRIVERS])
runtimes = st.sampled_from(["12.9", "13.0", "13.2"])
environments = st.builds(
    lambda kind, driver, runtime: kind.under(driver, runtime), kinds, drivers, runtimes
)
judgements = st.lists(
    st.builds(Judgement, environments, st.sampled_from(Result), st.sampled_from([None, "forged"])),
    max_size=4,
).map(tuple)


def key_of(kind: GpuKind, runtime: str, number: int) -> EngineKey:
    return EngineKey.of(
        builder="tensorrt_llm", weights=f"w{number}", recipe=f"r{number}", tensorrt_llm="1.2.1",
        gpu_product=kind.product, compute_capability=kind.compute_capability,
        cuda_runtime=runtime, os="linux", cpu_architecture="x86_64",
    )  # fmt: skip


def profile_of(kind: GpuKind, driver: DriverState) -> Profile:
    return Profile((kind,), driver, "linux", "x86_64", (), 8, simulated=False)


@given(st.lists(st.tuples(kinds, runtimes, judgements), min_size=1, max_size=4), kinds, drivers,
       st.sampled_from(DriverScope))  # fmt: skip
def test_what_is_reused_is_no_drift_and_everything_else_is(
    made: list[tuple[GpuKind, str, tuple[Judgement, ...]]],
    kind: GpuKind,
    driver: DriverState,
    scope: DriverScope,
) -> None:
    profile = profile_of(kind, driver)
    engines = {
        str(at): KnownEngine(
            FleetEngine(str(at), key_of(own, runtime, at), "v", 1, said), "m", simulated=False
        )
        for at, (own, runtime, said) in enumerate(made)
    }
    judge = Judge(engines, {}, DAY, scope)
    for name, known in engines.items():
        facts = known.engine
        (environment,) = profile.meets(facts.key)
        place = Place(environment, os="linux", cpu_architecture="x86_64", on=DAY)
        action = decide(facts.key, facts.judgements, place, scope=scope).action
        assert (judge.standing(profile, name) == ()) is (action is Effect.REUSE)


@given(st.lists(st.tuples(kinds, runtimes), min_size=2, max_size=4), judgements, kinds,
       st.lists(drivers, min_size=1, max_size=2), st.sampled_from(DriverScope))  # fmt: skip
def test_engines_of_which_the_same_was_said_stand_as_each_would_alone(
    made: list[tuple[GpuKind, str]],
    said: tuple[Judgement, ...],
    kind: GpuKind,
    under: list[DriverState],
    scope: DriverScope,
) -> None:
    engines = {
        str(at): KnownEngine(
            FleetEngine(str(at), key_of(own, runtime, at), "v", 1, said), "m", simulated=False
        )
        for at, (own, runtime) in enumerate(made)
    }
    together = Judge(engines, {}, DAY, scope)
    for driver in under:
        for name, known in engines.items():
            profile = profile_of(kind, driver)
            alone = Judge({name: known}, {}, DAY, scope).standing(profile, name)
            found = together.standing(profile, name)
            assert found == alone
            assert {one.engine for one in found} <= {name}
            assert [one.environment for one in found] == [one.environment for one in alone]


def test_of_engines_on_a_channel_the_first_that_may_run_there_is_wanted() -> None:
    here, there = (GpuKind(*one) for one in PRODUCTS)
    driver = DriverState(*DRIVERS[0])
    made = {
        "for-the-other": (there, ()),
        "never-judged": (here, ()),
        "good": (here, (Judgement(here.under(driver, "13.0"), Result.PASS),)),
    }
    engines = {
        name: KnownEngine(
            FleetEngine(name, key_of(kind, "13.0", 1), "v", 1, said), "m", simulated=False
        )
        for name, (kind, said) in made.items()
    }
    judge = Judge(engines, {("m", "prod"): ("unknown", *made)}, DAY)
    assert judge.wanted(profile_of(here, driver), "m", "prod").engine == "good"
    on_the_other = judge.wanted(profile_of(there, driver), "m", "prod")
    assert (on_the_other.engine, on_the_other.reason) == (None, "verdict: never passed")
    nowhere = judge.wanted(profile_of(GpuKind("NVIDIA A30", "8.0"), driver), "m", "prod")
    assert nowhere.reason == "no engine for this hardware"


@given(kinds, runtimes, judgements, drivers)
def test_what_rules_do_not_read_does_not_change_the_decision(
    kind: GpuKind, runtime: str, said: tuple[Judgement, ...], driver: DriverState
) -> None:
    place = Place(kind.under(driver, runtime), os="linux", cpu_architecture="x86_64", on=DAY)
    base = key_of(kind, runtime, 1)
    assert set(HARD_FIELDS) >= OPAQUE
    other = EngineKey.of(**{**base.hard, **dict.fromkeys(OPAQUE, "something else")})
    assert decide(base, said, place) == decide(other, said, place)


def judge_of(said: tuple[Judgement, ...] = (), *, simulated: bool = False) -> Judge:
    facts = FleetEngine("e", key_of(GpuKind(*PRODUCTS[0]), "13.0", 1), "v", 1, said)
    return Judge({"e": KnownEngine(facts, "m", simulated=simulated)}, {}, DAY)


def test_the_field_that_differs_from_where_it_passed_names_the_drift() -> None:
    kind = GpuKind(*PRODUCTS[0])
    said = (Judgement(kind.under(DriverState(*DRIVERS[0]), "13.0"), Result.PASS),)
    profile = profile_of(kind, DriverState("580.126.01", "13.0"))
    (found,) = judge_of(said).standing(profile, "e")
    assert found.kind is DriftKind.DRIVER
    assert [(one.field, one.desired, one.actual) for one in found.fields] == [
        ("driver", "580.95.05", "580.126.01")
    ]
    assert isinstance(found.environment, GpuEnvironment)


def test_a_simulated_engine_on_a_real_node_is_out_of_place() -> None:
    profile = profile_of(GpuKind(*PRODUCTS[0]), DriverState(*DRIVERS[0]))
    (found,) = judge_of(simulated=True).standing(profile, "e")
    assert (found.kind, found.fields[0].field) == (DriftKind.REVOKED, "simulated")
