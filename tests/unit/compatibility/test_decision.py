"""The decision: total, the same twice, never better than the evidence, and one with the gate."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enginekeeper.compatibility.decision import (
    VERDICT_RULES,
    Judgement,
    blocking,
    decide,
    place_rules,
)
from enginekeeper.compatibility.deployment import refusal
from enginekeeper.compatibility.places import HardwareLevel, Place, Portability
from enginekeeper.compatibility.placing import Effect
from enginekeeper.compatibility.versions import readable
from registry.environments import CpuEnvironment, DriverScope, Environment, GpuEnvironment
from registry.gate import GateFamily, GatePolicy
from registry.gate import decide as gate
from registry.keys import EngineKey
from registry.types import Result
from tests.factories.signed_engines import SignedEngines

RANK = list(Effect)
_DRIVERS = st.sampled_from(
    ["449.9", "525.60.13", "535.104.05", "555.42.06", "570.86.10", "580.95.05", "580.95.12",
     "580.126.01", "595.71.05", "610.43.02", "x", "9" * 5000]
)  # fmt: skip
_CUDA = st.sampled_from(
    ["11.8", "12.0", "12.9", "13.0", "13.2", "14.0", "", "13.0.0", "9" * 5000, "13"]
)
_PRODUCTS = st.sampled_from(
    [("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA H200", "9.0"), ("NVIDIA L4", "8.9"),
     ("Tesla V100-SXM2-32GB", "7.0"), ("NVIDIA B200", "10.0"), ("odd", "sm_90")]
)  # fmt: skip
_VERSIONS = st.sampled_from(["8.6.1", "10.11.0.33", "10.13.3.9", "11.1.0", "?", "1" * 5000])
_FLAGS = st.lists(st.sampled_from(["avx2", "fma", "amx_int8"]), max_size=3)


@st.composite
def gpus(draw: st.DrawFn) -> GpuEnvironment:
    name, capability = draw(_PRODUCTS)
    mig = draw(st.sampled_from([None, "1g.10gb"]))
    return GpuEnvironment(name, capability, draw(_CUDA), draw(_CUDA), draw(_DRIVERS), mig)


ENVIRONMENTS: st.SearchStrategy[Environment] = st.one_of(
    gpus(), st.builds(CpuEnvironment, _FLAGS.map(tuple), st.sampled_from(["2.13.0", "2.12.0"]))
)


@st.composite
def keys(draw: st.DrawFn) -> EngineKey:
    environment = draw(ENVIRONMENTS)
    rest: dict[str, Any] = {
        "os": draw(st.sampled_from([None, "linux"])),
        "cpu_architecture": draw(st.sampled_from([None, "x86_64", "aarch64"])),
        "vbios": draw(st.sampled_from([None, "a"])),
    }
    if isinstance(environment, CpuEnvironment):
        rest |= {"instruction_set": list(environment.instruction_set), "torch": environment.torch}
    else:
        rest |= {
            "gpu_product": environment.product, "cuda_runtime": environment.cuda_runtime,
            "compute_capability": environment.compute_capability,
            "mig_profile": environment.mig_profile, "tensorrt": draw(_VERSIONS),
        }  # fmt: skip
    absent = draw(st.sets(st.sampled_from(sorted(rest))))
    return EngineKey.of(
        builder="b", weights="w", **{k: v for k, v in rest.items() if k not in absent}
    )


PLACES = st.builds(
    Place,
    ENVIRONMENTS,
    os=st.sampled_from([None, "linux", "windows"]),
    cpu_architecture=st.sampled_from([None, "x86_64", "aarch64"]),
    tensorrt=st.none() | _VERSIONS,
    cuda_compat=st.none() | _CUDA,
    vbios=st.sampled_from([None, "a", "b"]),
    on=st.none() | st.dates(),
)
JUDGEMENTS = st.lists(st.builds(Judgement, ENVIRONMENTS, st.sampled_from(Result)), max_size=4)
SCOPES = st.sampled_from(DriverScope)
PORTABILITY = st.builds(Portability, st.sampled_from(HardwareLevel), versions=st.booleans())


@st.composite
def questions(draw: st.DrawFn) -> tuple[EngineKey, list[Judgement], Place, dict[str, Any]]:
    key, place, judgements = draw(keys()), draw(PLACES), draw(JUDGEMENTS)
    if draw(st.booleans()):  # judged where it is asked about
        judgements.insert(0, Judgement(place.environment, draw(st.sampled_from(Result))))
    if draw(st.booleans()) and isinstance(gpu := place.environment, GpuEnvironment):
        key = EngineKey.of(
            builder="b", weights="w", gpu_product=gpu.product, cuda_runtime=gpu.cuda_runtime,
            compute_capability=gpu.compute_capability, mig_profile=gpu.mig_profile,
            os=place.os, cpu_architecture=place.cpu_architecture, tensorrt=place.tensorrt,
        )  # fmt: skip
    return key, judgements, place, {"scope": draw(SCOPES), "portability": draw(PORTABILITY)}


@settings(max_examples=400, deadline=None)
@given(questions())
def test_it_is_total_and_the_same_twice(question: Any) -> None:  # noqa: ANN401 - of the strategy
    key, judgements, place, options = question
    decision = decide(key, judgements, place, **options)
    assert decision == decide(key, judgements, place, **options)
    assert decision.action is not Effect.NOTE
    assert decision.deciding
    known = {rule.identifier for rule in (*place_rules(), *VERDICT_RULES)}
    assert {one.rule.identifier for one in decision.fired} | set(decision.unchecked) <= known
    for one in decision.fired:
        assert one.finding.actual
        assert one.finding.expected
        assert one.rule.source


@settings(max_examples=400, deadline=None)
@given(questions())
def test_nothing_is_reused_without_a_passing_verdict(question: Any) -> None:  # noqa: ANN401
    key, judgements, place, options = question
    without = [one for one in judgements if one.result is not Result.PASS]
    assert decide(key, without, place, **options).action is not Effect.REUSE


@settings(max_examples=400, deadline=None)
@given(questions())
def test_a_new_pass_there_never_makes_it_worse(question: Any) -> None:  # noqa: ANN401
    key, judgements, place, options = question
    before = decide(key, judgements, place, **options).action
    passed = [Judgement(place.environment, Result.PASS), *judgements]
    assert RANK.index(decide(key, passed, place, **options).action) <= RANK.index(before)


@settings(max_examples=400, deadline=None)
@given(questions())
def test_a_wider_scope_of_passes_never_makes_it_worse(question: Any) -> None:  # noqa: ANN401
    key, judgements, place, options = question
    passes = [replace(one, result=Result.PASS) for one in judgements]
    ranks = [
        RANK.index(decide(key, passes, place, **{**options, "scope": scope}).action)
        for scope in DriverScope  # from the narrowest
    ]
    assert ranks == sorted(ranks, reverse=True)


@settings(max_examples=400, deadline=None)
@given(questions(), st.sampled_from(["os", "cpu_architecture", "tensorrt", "vbios", "on"]))
def test_what_is_not_known_fires_nothing_and_is_named(question: Any, field: str) -> None:  # noqa: ANN401
    key, judgements, place, options = question
    full = decide(key, judgements, place, **options)
    less = decide(key, judgements, replace(place, **{field: None}), **options)
    of_place = {rule.identifier for rule in place_rules()}
    lost = {one.rule.identifier for one in full.fired} & of_place
    lost -= {one.rule.identifier for one in less.fired}
    assert lost <= set(less.unchecked)


@settings(max_examples=300, deadline=None)
@given(keys(), gpus(), _DRIVERS, _DRIVERS)
def test_a_newer_driver_is_never_too_old_where_an_older_was_not(
    key: EngineKey, gpu: GpuEnvironment, one: str, other: str
) -> None:
    assume(readable(one) and readable(other))
    old, new = sorted((one, other), key=lambda text: [int(part) for part in text.split(".")])
    too_old = [
        {"driver-runs-cuda", "gpu-needs-driver"}
        & {hit.rule.identifier for hit in blocking(key, replace(gpu, driver=driver))}
        for driver in (old, new)
    ]
    assert too_old[1] <= too_old[0]


@settings(max_examples=300, deadline=None)
@given(keys(), ENVIRONMENTS)
def test_the_gate_is_told_the_first_rule_that_stands_against_it(
    key: EngineKey, environment: Environment
) -> None:
    found, told = blocking(key, environment), refusal(key, environment)
    assert (told is None) is (not found)
    if told is not None:
        assert told.rule == found[0].rule.identifier
        assert len(told.evidence) == len(found)


def test_it_reuses_exactly_where_the_gate_is_open() -> None:
    """With real signed verdicts, over every pair of verdicts, environment and scope."""
    qualified = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13.0", "13.0", "580.95.05")
    nearby = replace(qualified, driver="580.95.12")
    places = [qualified, nearby, replace(qualified, driver="580.126.01"),
              replace(qualified, driver="595.71.05", cuda_driver="13.2"),
              replace(qualified, driver="570.86.10", cuda_driver="12.8")]  # fmt: skip
    signed = SignedEngines()
    engine = signed.engine(
        EngineKey.of(
            builder="tensorrt_llm", weights="w", gpu_product=qualified.product,
            compute_capability="9.0", cuda_runtime="13.0",
        )
    )  # fmt: skip
    verdicts = {
        (environment, result): signed.verdict(engine, environment, result)
        for environment in (qualified, nearby)
        for result in Result
    }
    agreed: set[tuple[GateFamily, Effect]] = set()
    results = (None, *Result)
    for first, second, place, scope in product(results, results, places, DriverScope):
        pairs = [(qualified, first), (nearby, second)]
        said = [verdicts[e, r] for e, r in pairs if r is not None]
        judgements = [
            Judgement(one.environment, one.result, issued_at=one.issued_at) for one in said
        ]
        opened = gate(engine, said, place, GatePolicy(signed.trust, refusal, scope))
        decision = decide(engine.key, judgements, Place(place), scope=scope)
        assert opened.is_open is (decision.action is Effect.REUSE)
        agreed.add((opened.family, decision.action))
    assert agreed == {
        (GateFamily.OK, Effect.REUSE), (GateFamily.INCONCLUSIVE, Effect.REVALIDATE),
        (GateFamily.CLOSED, Effect.REVALIDATE), (GateFamily.CLOSED, Effect.REFUSE),
        (GateFamily.REFUSED, Effect.REFUSE),
    }  # fmt: skip
