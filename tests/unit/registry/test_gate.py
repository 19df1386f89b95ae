"""The gate: every rule, its family, and that nothing recorded outweighs what was signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.attestations import (
    BuildRecord,
    VerdictClaim,
    provenance,
    sign,
    test_result,
)
from registry.digests import canonical_json, digest_bytes
from registry.environments import DriverScope, Environment
from registry.errors import (
    GateClosedError,
    GateInconclusiveError,
    GateRefusedError,
    IntegrityError,
    RegistryError,
)
from registry.gate import GateFamily, GateOutcome, GatePolicy, Refusal, decide
from registry.manifests import FileEntry, Manifest
from registry.trust import Purpose, Trust
from registry.types import Engine, EngineNames, Result, Verdict
from registry.verification import build_parameters
from tests.factories.registry import (
    CPU,
    H100,
    START,
    WEIGHTS,
    Signers,
    Workbench,
    cpu_key,
    with_registry,
)

SIGNERS = Signers()
POLICY = GatePolicy(SIGNERS.trust, lambda _key, _environment: None)


def make_engine(*, simulated: bool = False) -> Engine:
    key = cpu_key()
    files = (FileEntry("a", 1, digest_bytes(b"a")),)
    manifest = Manifest("engine", files, key.digest(), simulated)
    names = EngineNames("m", "w8a16", "cpu", "m.w8a16.tp1.cpu")
    record = BuildRecord(
        "urn:test:builder", "run-1", START, START, parameters=build_parameters(names, WEIGHTS)
    )
    signer = SIGNERS.of(Purpose.BUILD, simulated=simulated)
    envelope = sign(provenance(manifest, key, record), signer).decode()
    return Engine(
        manifest.digest, key, WEIGHTS, "m", "w8a16", "cpu", "m.w8a16.tp1.cpu", None, 1, "engines/m",
        envelope, simulated, START,
    )  # fmt: skip


def make_verdict(
    engine: Engine, result: Result = Result.PASS, environment: Environment = CPU
) -> Verdict:
    document = digest_bytes(canonical_json({"result": str(result)}))
    claim = VerdictClaim(
        result, environment, document, START, engine.simulated, summary=str(result)
    )
    signer = SIGNERS.of(Purpose.VERDICT, simulated=engine.simulated)
    envelope = sign(test_result(engine.digest, claim), signer)
    return Verdict(
        digest_bytes(envelope), engine.digest, environment, result, None, None, str(result),
        document, "v", envelope.decode(), engine.simulated, START, START,
    )  # fmt: skip


ENGINE = make_engine()
SIMULATED = make_engine(simulated=True)
PASS, FAIL, UNSURE = (make_verdict(ENGINE, result) for result in Result)


def ruled(
    verdicts: Sequence[Verdict],
    engine: Engine = ENGINE,
    environment: Environment = CPU,
    **policy: Any,  # noqa: ANN401 - its fields
) -> tuple[str, str]:
    decision = decide(engine, verdicts, environment, replace(POLICY, **policy))
    json.dumps(decision.as_dict())
    return decision.rule, str(decision.family)


def test_a_signed_pass_here_opens_it() -> None:
    assert ruled([PASS]) == ("qualified", "ok")


def test_no_verdict_at_all_closes_it() -> None:
    assert ruled([]) == ("never-judged", "closed")


def test_a_verdict_elsewhere_does_not_count_here() -> None:
    assert ruled([PASS], environment=H100) == ("not-qualified-here", "closed")


@given(st.lists(st.sampled_from([PASS, FAIL, UNSURE]), min_size=1, max_size=5))
def test_the_latest_verdict_wins(verdicts: list[Verdict]) -> None:
    expected = {
        Result.PASS: ("qualified", "ok"),
        Result.FAIL: ("verdict-failed", "closed"),
        Result.INCONCLUSIVE: ("verdict-inconclusive", "inconclusive"),
    }
    assert ruled(verdicts) == expected[verdicts[0].result]


def test_a_compatibility_rule_refuses_whatever_was_proven() -> None:
    refusal = Refusal("cuda-13-needs-r580", "the driver is too old", ("driver 570.26",))
    decision = decide(ENGINE, [PASS], CPU, replace(POLICY, compatibility=lambda _k, _e: refusal))
    assert (decision.rule, decision.family) == ("incompatible", GateFamily.REFUSED)
    assert decision.evidence == ("compatibility rule cuda-13-needs-r580", "driver 570.26")


def test_a_simulated_engine_runs_on_enrolled_nodes_only() -> None:
    verdicts = [make_verdict(SIMULATED)]
    assert ruled(verdicts, SIMULATED) == ("simulated-on-real-node", "closed")
    assert ruled(verdicts, SIMULATED, simulated_node=True) == ("qualified", "ok")


def test_an_exact_verdict_counts_before_one_of_a_wider_scope() -> None:
    patched = replace(H100, driver="580.95.12")
    near, here = make_verdict(ENGINE, environment=patched), make_verdict(ENGINE, Result.FAIL, H100)
    scope = DriverScope.PATCH
    assert ruled([near], environment=H100) == ("not-qualified-here", "closed")
    assert ruled([near], environment=H100, driver_scope=scope) == ("qualified", "ok")
    assert ruled([near, here], environment=H100, driver_scope=scope) == ("verdict-failed", "closed")


FORGERIES: dict[str, Callable[[], tuple[Engine, Verdict]]] = {
    "a fail recorded as a pass": lambda: (ENGINE, replace(FAIL, result=Result.PASS)),
    "another environment": lambda: (
        ENGINE, replace(make_verdict(ENGINE, environment=H100), environment=CPU),
    ),
    "another document": lambda: (ENGINE, replace(PASS, document=digest_bytes(b"other"))),
    "another engine's verdict": lambda: (ENGINE, make_verdict(SIMULATED)),
    "no envelope": lambda: (ENGINE, replace(PASS, envelope="")),
    "an envelope of the builder": lambda: (ENGINE, replace(PASS, envelope=ENGINE.provenance)),
    "another summary": lambda: (ENGINE, replace(PASS, summary="perfect")),
    "another fidelity": lambda: (ENGINE, replace(PASS, fidelity="pass")),
    "another quality": lambda: (ENGINE, replace(PASS, quality="pass")),
    "another time": lambda: (ENGINE, replace(PASS, issued_at=START + timedelta(days=1))),
    "an old verdict as a new one": lambda: (ENGINE, replace(PASS, digest=digest_bytes(b"new"))),
    "another model": lambda: (replace(ENGINE, model_name="llama-70b"), PASS),
    "other weights": lambda: (replace(ENGINE, model=digest_bytes(b"other")), PASS),
    "another recipe": lambda: (replace(ENGINE, recipe="fp8"), PASS),
    "another target": lambda: (replace(ENGINE, target="h100-sxm"), PASS),
    "another variant": lambda: (replace(ENGINE, variant="llama-70b.fp8.tp1.h100-sxm"), PASS),
    "another key": lambda: (replace(ENGINE, key=cpu_key(torch="2.14.0")), PASS),
    "a simulated engine as a real one": lambda: (
        replace(SIMULATED, simulated=False), make_verdict(SIMULATED),
    ),
    "another engine's provenance": lambda: (
        replace(ENGINE, provenance=SIMULATED.provenance), PASS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_is_recorded_never_outweighs_what_was_signed(forgery: str) -> None:
    engine, verdict = FORGERIES[forgery]()
    rule, family = ruled([verdict], engine)
    assert family == "integrity"
    assert rule in ("build-not-attested", "verdict-not-attested")


def test_no_trust_opens_nothing() -> None:
    assert ruled([PASS], trust=Trust()) == ("build-not-attested", "integrity")
    builder_only = Trust(tuple(key for key in POLICY.trust.keys if Purpose.BUILD in key.purposes))
    assert ruled([PASS], trust=builder_only) == ("verdict-not-attested", "integrity")


@pytest.mark.parametrize(
    ("verdicts", "policy", "error"),
    [
        ([FAIL], {}, GateClosedError),
        ([UNSURE], {}, GateInconclusiveError),
        ([PASS], {"compatibility": lambda _k, _e: Refusal("r", "no")}, GateRefusedError),
        ([PASS], {"trust": Trust()}, IntegrityError),
    ],
)
def test_each_family_has_its_own_error(
    verdicts: list[Verdict], policy: dict[str, Any], error: type[RegistryError]
) -> None:
    decision = decide(ENGINE, verdicts, CPU, replace(POLICY, **policy))
    assert not decision.is_open
    assert decision.outcome is not GateOutcome.OPEN
    with pytest.raises(error) as caught:
        decision.require_open()
    assert type(caught.value) is error


def test_an_open_gate_raises_nothing() -> None:
    decide(ENGINE, [PASS], CPU, POLICY).require_open()


@pytest.mark.parametrize("late", [Result.FAIL, Result.INCONCLUSIVE])
def test_an_older_pass_recorded_last_opens_no_third_driver_of_the_scope(
    bench: Workbench, late: Result
) -> None:
    bench = with_registry(bench, driver_scope=DriverScope.BRANCH)
    engine = bench.publish()
    passed = bench.verdict_on(engine, Result.PASS, H100)
    failed = bench.verdict_on(engine, late, replace(H100, driver="580.95.12"))
    for document, envelope in (failed, passed):
        bench.registry.record_verdict(engine.digest, document, envelope)
    third = replace(H100, driver="580.126.01")
    assert not bench.registry.gate(engine.digest, third).is_open
    assert bench.registry.gate(engine.digest, H100).is_open  # exactly there it is the only one
    found = bench.registry.verdict_there(engine, third)
    assert found is not None
    assert found.result is late
    bench.judge(engine, Result.PASS, replace(H100, driver="580.95.12"), {"run": 2})
    assert bench.registry.gate(engine.digest, third).is_open
