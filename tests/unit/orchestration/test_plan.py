"""What the plan decides about each variant, against a real registry."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginekeeper.fleet.environments import GpuKind
from enginekeeper.orchestration.outcome import Ending
from enginekeeper.orchestration.plan import Action, PlannedVariant
from enginekeeper.orchestration.planning import plan_variants, planned_outcome
from enginekeeper.specs.variants import Variant
from registry.digests import digest_bytes
from registry.environments import CpuEnvironment
from registry.errors import IntegrityError
from registry.lifecycle import revoke
from registry.signing import open_signer
from registry.trust import Purpose
from registry.types import Result
from tests.factories.benches import TOOLS, Site, variants_of
from tests.factories.failures import failure
from tests.fakes.statements import asked

STRICTER = "acceptance: {max_quality_kl: 0.001}\n"
LABELLED = "[w8a16, {recipe: w8a16, label: strict, acceptance: {max_quality_kl: 0.001}}]"
LABELLED_RESULTS = (Result.PASS, Result.FAIL, Result.PASS, Result.FAIL)
GPU = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\nparallel: [{tensor: 3}]\n"


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    return variants_of(tmp_path)[0]


def decided(site: Site, variant: Variant) -> PlannedVariant:
    (planned,) = site.plan(variant)
    json.dumps(planned.as_dict(), allow_nan=False)
    return planned


def test_a_source_that_is_not_here_is_planned_without_a_key(site: Site, variant: Variant) -> None:
    (planned,) = plan_variants(site.bench, [variant], None)
    assert (planned.action, planned.rule) == (Action.BUILD, "source-not-fetched")
    assert planned.key is None


def unfetched(site: Site, directory: Path, recipes: str, more: str = "") -> PlannedVariant:
    (planned,) = plan_variants(site.bench, variants_of(directory, recipes, more), None)
    return planned


def test_a_refusal_needs_no_source(site: Site, tmp_path: Path) -> None:
    more = "targets: [a100-sxm-80gb]\ntoolchain: tensorrt-llm-1.2.1\n"
    planned = unfetched(site, tmp_path, "[fp8]", more)
    assert (planned.action, planned.rule) == (Action.REFUSE, "fp8-needs-8.9")
    assert planned_outcome(planned).ending is Ending.REFUSED


def test_what_cannot_run_here_is_exported_without_a_source_too(site: Site, tmp_path: Path) -> None:
    planned = unfetched(site, tmp_path, "[nvfp4]")
    assert (planned.action, planned.rule) == (Action.EXPORT, "nvfp4-not-scored-on-cpu")
    assert planned.estimate is None


def test_the_plan_names_the_rules_that_wait_for_the_source(
    site: Site, variant: Variant, tmp_path: Path
) -> None:
    waiting = unfetched(site, tmp_path, "[none]").as_dict()["unchecked"]
    assert "query-heads-by-tensor-parallel" in waiting
    assert "builder-fits-target" not in waiting
    assert decided(site, variant).unchecked == ()


def test_what_no_builder_here_makes_is_planned_for_elsewhere(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path, more=GPU.replace("tensor: 3", "tensor: 1"))
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.ELSEWHERE, "no-builder-here")
    assert planned.key is None
    assert planned.estimate is not None


def test_a_real_engine_is_built_where_its_gpu_is_and_nowhere_else(
    site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path, more=GPU.replace("tensor: 3", "tensor: 1"))
    vars(site.bench)["gpus"] = (GpuKind("NVIDIA L4", "8.9"),)
    on_another = decided(site, variant)
    vars(site.bench)["gpus"] = (GpuKind("NVIDIA H100 80GB HBM3", "9.0"),)

    assert on_another.action is Action.ELSEWHERE
    assert (decided(site, variant).action, decided(site, variant).rule) == (
        Action.BUILD, "toolchain-not-locked",
    )  # fmt: skip


def test_an_engine_of_other_code_is_not_reused(site: Site, variant: Variant) -> None:
    site.judge(site.publish(variant), variant)
    newer = replace(TOOLS, quantizer=replace(TOOLS.quantizer, code="ek-steps-v1:newer"))
    vars(site.bench)["tools"] = newer
    assert decided(site, variant).rule == "no-engine-of-this-key"


def test_what_failed_is_asked_for_once_whatever_the_number_of_variants(
    site: Site, tmp_path: Path
) -> None:
    variants = variants_of(tmp_path, "[none, fp8, w8a16]")

    with asked() as statements:
        planned = site.plan(*variants)

    assert [one.action for one in planned] == [Action.BUILD] * 3
    assert len([one for one in statements if "FROM build_failures" in one]) == 1


def test_without_an_engine_of_the_key_it_is_built(site: Site, variant: Variant) -> None:
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.BUILD, "no-engine-of-this-key")
    assert planned.estimate is not None


def test_an_engine_that_was_never_judged_is_judged_not_built(site: Site, variant: Variant) -> None:
    engine = site.publish(variant)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REVALIDATE, "no-verdict")
    assert planned.known is not None
    assert planned.known.engine.digest == engine.digest


@pytest.mark.parametrize("result", Result)
def test_a_verdict_is_reused_whatever_it_says(site: Site, variant: Variant, result: Result) -> None:
    engine = site.publish(variant)
    site.judge(engine, variant, result)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REUSE, "same-key")
    outcome = planned_outcome(planned)
    assert (outcome.ending, outcome.result) == (Ending.REUSED, str(result))
    assert outcome.engine == str(engine.digest)
    assert outcome.path == site.bench.registry.locate(engine.path)
    assert outcome.summary.endswith(f"{result}: as tested")


def test_a_revoked_engine_is_passed_over(site: Site, variant: Variant) -> None:
    old, new = site.publish(variant, b"old"), site.publish(variant, b"new")
    for engine in (old, new):
        site.judge(engine, variant)
    signer = open_signer(site.bench.keys, Purpose.REVOCATION)
    revoke(site.bench.registry, new, "wrong tokens", signer)
    planned = decided(site, variant)
    assert planned.known is not None
    assert (planned.action, planned.known.engine) == (Action.REUSE, old)
    revoke(site.bench.registry, old, "wrong tokens, too", signer)
    planned = decided(site, variant)
    assert (planned.action, planned.known) == (Action.BUILD, None)


def test_a_verdict_by_another_acceptance_does_not_answer(
    site: Site, variant: Variant, tmp_path: Path
) -> None:
    site.judge(site.publish(variant), variant)
    (stricter,) = variants_of(tmp_path, more=STRICTER)
    assert decided(site, stricter).action is Action.REVALIDATE
    assert decided(site, variant).action is Action.REUSE


def test_a_verdict_by_another_validator_does_not_answer(site: Site, variant: Variant) -> None:
    site.judge(site.publish(variant), variant)
    vars(site.bench)["validator"] = digest_bytes(b"newer code")
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REVALIDATE, "no-verdict")
    assert "this validator" in planned.reason


def test_only_the_latest_verdict_by_the_same_acceptance_counts(
    site: Site, variant: Variant
) -> None:
    engine = site.publish(variant)
    site.judge(engine, variant)
    site.judge(engine, variant, Result.FAIL)
    assert planned_outcome(decided(site, variant)).result == "fail"


def test_variants_that_differ_in_label_share_an_engine_with_a_verdict_each(
    site: Site, tmp_path: Path
) -> None:
    variants = variants_of(tmp_path, LABELLED, "targets: [cpu, {gpu: cpu, label: edge}]\n")
    engines = [site.publish(variant) for variant in variants]
    for engine, variant, result in zip(engines, variants, LABELLED_RESULTS, strict=True):
        site.judge(engine, variant, result)
    assert len({engine.digest for engine in engines}) == 1
    assert {(engine.recipe, engine.target) for engine in engines} == {("w8a16", "cpu")}
    outcomes = [planned_outcome(one) for one in site.plan(*variants)]
    assert [one.variant for one in outcomes] == [
        "tiny.w8a16.tp1.cpu",
        "tiny.strict.tp1.cpu",
        "tiny.w8a16.tp1.edge",
        "tiny.strict.tp1.edge",
    ]
    assert {one.ending for one in outcomes} == {Ending.REUSED}
    assert [one.result for one in outcomes] == ["pass", "fail", "pass", "fail"]


def test_a_verdict_from_elsewhere_does_not_answer(site: Site, variant: Variant) -> None:
    site.judge(site.publish(variant), variant, environment=CpuEnvironment(("avx2",), "2.12.0"))
    assert decided(site, variant).action is Action.REVALIDATE


def test_an_engine_with_a_verdict_comes_before_a_newer_one_without(
    site: Site, variant: Variant
) -> None:
    judged = site.publish(variant, b"first")
    site.judge(judged, variant)
    newer = site.publish(variant, b"second")
    planned = decided(site, variant)
    assert planned.action is Action.REUSE
    assert planned.known is not None
    assert planned.known.engine.digest == judged.digest != newer.digest


def test_a_verdict_whose_evidence_was_altered_is_not_reused(site: Site, variant: Variant) -> None:
    verdict = site.judge(site.publish(variant), variant)
    store = site.bench.settings.home / "store" / verdict.path
    store.chmod(0o644)
    store.write_bytes(store.read_bytes().replace(b'"pass"', b'"fail"'))
    with pytest.raises(IntegrityError, match="verdict document"):
        decided(site, variant)


TAMPERINGS = (
    "update verdicts set result='pass'",
    "update verdicts set summary='PASS: perfect'",
    "update verdicts set quality='fail'",
    "update engines set target='h100-sxm'",
    "update engines set variant='llama-70b.fp8.tp1.h100-sxm'",
    "update engines set recipe='fp8'",
    "update models set name='llama-70b'",
)


@pytest.mark.parametrize("statement", TAMPERINGS)
def test_a_row_that_is_not_what_was_signed_is_not_reused(
    site: Site, variant: Variant, statement: str
) -> None:
    site.judge(site.publish(variant), variant, Result.FAIL)
    site.tamper(statement)
    with pytest.raises(IntegrityError, match="is not what was signed"):
        decided(site, variant)


@pytest.mark.parametrize("purpose", ["build", "verdict"])
def test_nothing_that_nobody_trusted_signed_is_reused(
    site: Site, variant: Variant, purpose: str
) -> None:
    site.judge(site.publish(variant), variant)
    site.distrust(purpose)
    with pytest.raises(IntegrityError, match="does not count"):
        decided(site, variant)


def test_what_a_revoked_builder_signed_is_built_anew_and_says_why(
    site: Site, variant: Variant
) -> None:
    engine = site.publish(variant)
    site.judge(engine, variant)
    site.revoke(Purpose.BUILD)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.BUILD, "builder-not-trusted-any-more")
    assert "stolen laptop" in planned.reason
    assert planned.known is None
    json.dumps(planned.as_dict())
    assert site.publish(variant).digest == engine.digest
    assert decided(site, variant).action is Action.REUSE


def test_a_builder_that_was_revoked_later_keeps_what_it_signed_before(
    site: Site, variant: Variant
) -> None:
    site.judge(site.publish(variant), variant)
    site.revoke(Purpose.BUILD, since=datetime.now(UTC) + timedelta(hours=1))
    assert decided(site, variant).action is Action.REUSE


def test_what_a_revoked_validator_judged_is_judged_again(site: Site, variant: Variant) -> None:
    engine = site.publish(variant)
    site.judge(engine, variant)
    site.revoke(Purpose.VERDICT)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REVALIDATE, "validator-not-trusted-any-more")
    assert "stolen laptop" in planned.reason
    site.judge(engine, variant)
    assert decided(site, variant).action is Action.REUSE


def test_a_revoked_builder_hides_no_changed_row(site: Site, variant: Variant) -> None:
    site.publish(variant)
    site.publish(variant, b"second")
    site.tamper("update engines set target='h100-sxm'")
    site.revoke(Purpose.BUILD, since=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(IntegrityError, match="is not what was signed"):
        decided(site, variant)


def test_a_rule_refuses_before_anything_else_is_asked(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path, more=GPU)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REFUSE, "query-heads-by-tensor-parallel")
    assert "found" in planned.reason
    assert "expected" in planned.reason
    outcome = planned_outcome(planned)
    assert (outcome.ending, outcome.result, outcome.engine) == (Ending.REFUSED, None, None)


def test_what_cannot_run_here_is_exported(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path, "[nvfp4]")
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.EXPORT, "nvfp4-not-scored-on-cpu")


def test_every_variant_is_decided_in_the_specs_order(site: Site, tmp_path: Path) -> None:
    variants = variants_of(tmp_path, "[none, w8a16, fp8]")
    site.judge(site.publish(variants[1]), variants[1])
    planned = site.plan(*variants)
    assert [one.variant for one in planned] == list(variants)
    assert [str(one.action) for one in planned] == ["build", "reuse", "build"]


def test_the_first_variant_that_is_made_pays_for_the_reference(site: Site, tmp_path: Path) -> None:
    variants = variants_of(tmp_path, "[none, w8a16, fp8]")
    site.judge(site.publish(variants[0]), variants[0])
    estimates = [one.estimate for one in plan_variants(site.bench, variants, site.source)]
    stages = [None if cost is None else "reference" in cost.stages for cost in estimates]
    assert stages == [None, True, False]


def _fail(site: Site, variant: Variant, **changes: object) -> None:
    key = decided(site, variant).key
    assert key is not None
    now = datetime.now(UTC)
    times = {"failed_at": now, "expires_at": now + timedelta(days=14), **changes}
    with site.bench.registry.catalogue.edit(actor="anna") as draft:
        draft.failures.remember(failure(key.digest(), **times))


def test_what_failed_for_a_cause_in_its_key_is_refused_with_cause_and_way_out(
    site: Site, variant: Variant
) -> None:
    _fail(site, variant)
    planned = decided(site, variant)
    assert (planned.action, planned.rule) == (Action.REFUSE, "failed-before")
    for said in ("no kernel fits", "use other plugins", "anna", "--retry-failed"):
        assert said in planned.reason


def test_what_failed_is_tried_by_whoever_asks_for_it_and_when_it_has_expired(
    site: Site, variant: Variant
) -> None:
    _fail(site, variant)
    (asked,) = plan_variants(site.bench, [variant], site.source, retry_failed=True)
    _fail(site, variant, expires_at=datetime.now(UTC))
    assert (asked.action, decided(site, variant).action) == (Action.BUILD, Action.BUILD)


def test_an_engine_that_is_there_outweighs_a_failure_of_its_key(
    site: Site, variant: Variant
) -> None:
    _fail(site, variant)
    site.judge(site.publish(variant), variant)
    assert decided(site, variant).action is Action.REUSE


def test_a_rule_that_refuses_comes_before_a_failure(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path, "[{recipe: w4a16, group_size: 128}]")
    _fail(site, variant)
    assert decided(site, variant).rule == "group-divides-columns"
