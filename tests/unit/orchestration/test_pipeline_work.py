"""One run of the flow: which variants are left to do, and how each of them ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.errors import StepError, UnavailableError
from enginekeeper.orchestration import pipeline
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.orchestration.pipeline import Progress, Work, begin, there
from enginekeeper.orchestration.planning import plan_variants, planned_outcome
from enginekeeper.orchestration.retries import can_be_retried
from enginekeeper.orchestration.stages import Checkpoint, Made
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    IntegrityError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.manifests import Manifest
from registry.service import Registry
from registry.types import Result
from tests.factories.benches import Site, variants_of
from tests.factories.checkpoints import exported

ORDER = BuildOrder("spec.yaml")
GPU = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n"


@pytest.fixture
def work(site: Site, tmp_path: Path) -> Work:
    """Three variants: one settled by a verdict, two to build."""
    variants = variants_of(tmp_path, "[none, w8a16, fp8]")
    site.judge(site.publish(variants[0]), variants[0], Result.INCONCLUSIVE)
    return begin(site.plan(*variants), ORDER)


def test_only_what_is_not_settled_is_to_do(work: Work) -> None:
    assert [str(one.action) for one in work.todo] == ["build", "build"]
    assert work.planned[0] not in work.todo


def test_without_audits_what_was_judged_is_judged_anew(work: Work) -> None:
    assert replace(work, order=replace(ORDER, audits=False)).todo == work.planned


def test_a_refused_variant_is_never_to_do(site: Site, tmp_path: Path) -> None:
    variants = variants_of(tmp_path, more=GPU + "parallel: [{tensor: 3}]\n")
    for audits in (True, False):
        work = begin(site.plan(*variants), replace(ORDER, audits=audits))
        assert work.todo == ()
        assert [one.ending for one in work.outcomes()] == [Ending.REFUSED]


def test_a_known_error_ends_its_variant_and_no_other(work: Work) -> None:
    first, second = work.todo
    with work.catching(first):
        raise StepError("quantize crashed", where="step.log", remedy="read it")
    work.end(Outcome(second.variant.identifier, Ending.JUDGED, "pass", "PASS"))
    settled, failed, judged = work.outcomes()
    assert (settled.ending, settled.result) == (Ending.REUSED, "inconclusive")
    assert (failed.ending, failed.result) == (Ending.FAILED, None)
    assert failed.summary.startswith("step.log: quantize crashed")
    assert failed.failure is not None
    assert failed.failure.family is StepError
    assert failed.failure.says["next"] == "read it"
    assert judged.ending is Ending.JUDGED


def test_a_defect_of_ours_is_not_caught(work: Work) -> None:
    with pytest.raises(ZeroDivisionError), work.catching(work.todo[0]):
        raise ZeroDivisionError
    assert not work.ended


@pytest.mark.parametrize("audits", [True, False])
def test_what_no_builder_here_makes_is_unavailable_before_any_work(
    site: Site, tmp_path: Path, *, audits: bool
) -> None:
    planned = plan_variants(site.bench, variants_of(tmp_path, more=GPU), None)
    work = begin(planned, replace(ORDER, audits=audits))
    assert work.todo == ()
    (outcome,) = work.outcomes()
    assert outcome.failure is not None
    assert outcome.failure.family is UnavailableError
    assert "nothing here can build for h100-sxm" in outcome.summary
    assert "toolchain: simulated-tensorrt-llm-1.2.1" in outcome.summary


@pytest.mark.parametrize("audits", [True, False])
def test_what_is_only_exported_ends_as_exported(
    site: Site, tmp_path: Path, *, audits: bool
) -> None:
    order = replace(ORDER, audits=audits)
    work = begin(site.plan(*variants_of(tmp_path, "[nvfp4]")), order)
    work = replace(work, source=site.source)
    checkpoint = exported("nvfp4", tmp_path)
    digest = digest_bytes(b"checkpoint")
    given = Made(checkpoint, digest, reused=False, seconds=3.0)
    made = Progress(work.todo[0], given, Checkpoint(checkpoint, digest), ())
    made = pipeline.audit_checkpoint(work, made)
    outcome = pipeline.export_checkpoint(site.bench, work, made)
    assert made.export_only
    assert work.outcomes() == [outcome]
    assert (outcome.ending, outcome.result) == (Ending.EXPORTED, None)
    assert ("config pass" in outcome.summary) is audits
    assert ("audits: not run" in outcome.summary) is not audits
    assert outcome.seconds == {"quantize": 3.0}
    (planned,) = site.plan(made.variant)
    assert str(planned.action) == ("reuse" if audits else "export")
    assert planned.settled(audits=True) is planned.settled(audits=False) is audits
    assert outcome.path is not None
    assert planned_outcome(planned).path == (
        outcome.path.removeprefix(f"{site.bench.registry.store.url}/") if audits else None
    )


@pytest.mark.parametrize("gone", ["checkpoint", "validator"])
def test_an_export_is_made_again_when_it_is_lost_or_audited_otherwise(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    work = replace(begin(site.plan(*variants_of(tmp_path, "[nvfp4]")), ORDER), source=site.source)
    checkpoint = exported("nvfp4", tmp_path)
    given = Made(checkpoint, digest_bytes(b"x"), reused=False, seconds=3.0)
    made = Progress(work.todo[0], given, Checkpoint(checkpoint, digest_bytes(b"x")), ())
    pipeline.export_checkpoint(site.bench, work, made)
    if gone == "validator":
        vars(site.bench)["validator"] = digest_bytes(b"newer code")
    else:

        def lost(*_asked: object) -> None:
            raise RecordNotFoundError("not in the catalogue")

        monkeypatch.setattr(Registry, "checkpoint", lost)
    (planned,) = site.plan(made.variant)
    assert str(planned.action) == "export"


def test_a_checkpoint_of_another_recipe_than_asked_for_is_named(site: Site, tmp_path: Path) -> None:
    work = begin(site.plan(*variants_of(tmp_path, "[w8a16]")), ORDER)
    work = replace(work, source=site.source)
    given = Made(tmp_path, digest_bytes(b"export"), reused=False, seconds=3.0)
    checkpoint = Checkpoint(exported("nvfp4", tmp_path), digest_bytes(b"checkpoint"))
    made = Progress(work.todo[0], given, checkpoint, ())
    audits = {one.check: one for one in pipeline.audit_checkpoint(work, made).audits}
    assert {name: one.result for name, one in audits.items()} == {
        "config": "pass",
        "weights": "pass",
        "recipe": "fail",
    }
    (found,) = audits["recipe"].findings
    assert (found.where, found.actual, found.expected) == (
        "quantization.quant_algo",
        "NVFP4",
        "W8A16",
    )


def test_what_the_audits_found_comes_before_what_the_step_refused(
    site: Site, tmp_path: Path
) -> None:
    work = begin(site.plan(*variants_of(tmp_path, "[w8a16]")), ORDER)
    work = replace(work, source=site.source)
    given = Made(tmp_path, digest_bytes(b"export"), reused=False, seconds=3.0)
    checkpoint = Checkpoint(exported("nvfp4", tmp_path), digest_bytes(b"checkpoint"))
    with work.catching(work.todo[0]):
        pipeline.audit_checkpoint(work, Progress(work.todo[0], given, checkpoint, ()))
        raise StepError("refused", where="step.log")
    (outcome,) = work.outcomes()
    first, *_, last = outcome.summary.splitlines()
    assert first.startswith("audit: quantization.quant_algo: ")
    assert first.endswith("(found NVFP4, expected W8A16)")
    assert last == "step.log: refused"
    assert outcome.failure is not None
    assert outcome.failure.family is StepError


def test_a_checkpoint_from_elsewhere_has_no_recipe_audit(site: Site, tmp_path: Path) -> None:
    work = begin(site.plan(*variants_of(tmp_path, "[w8a16]")), ORDER)
    work = replace(work, source=site.source)
    given = Made(tmp_path, digest_bytes(b"export"), reused=False, seconds=3.0)
    checkpoint = Checkpoint(exported("w8a16", tmp_path), digest_bytes(b"checkpoint"))
    made = pipeline.audited(work, Progress(work.todo[0], given, checkpoint, ()), None)
    assert [one.check for one in made.audits] == ["config", "weights"]


def test_a_stage_out_of_order_is_a_defect(work: Work) -> None:
    with pytest.raises(AssertionError, match="before the one it needs"):
        pipeline.source_of(work)


def test_a_known_engine_is_fetched_and_neither_built_nor_published(
    site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant, b"as published")
    (planned,) = site.plan(variant)
    made = pipeline.fetch_engine(site.bench, planned)
    assert str(planned.action) == "revalidate"
    assert made.engine == engine
    assert (there(made.compiled).path / "engine" / "graph.pt2").read_bytes() == b"as published"
    assert made.checkpoint.digest == engine.checkpoint
    assert Manifest.of_directory(made.checkpoint.path, "checkpoint").digest == engine.checkpoint
    assert made.seconds == {}


def test_a_known_engine_whose_bytes_were_altered_is_not_fetched(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path)
    site.publish(variant, b"as published")
    (planned,) = site.plan(variant)
    stored = (site.bench.settings.home / "store").rglob("*")
    path = next(one for one in stored if one.is_file() and one.read_bytes() == b"as published")
    path.chmod(0o644)
    path.write_bytes(b"malice")
    with pytest.raises(IntegrityError):
        pipeline.fetch_engine(site.bench, planned)
    assert not list((site.bench.shop.work.root / "fetched-engine").iterdir())


class FakeState:
    """What Prefect hands to a retry condition."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self, *, raise_on_failure: bool) -> Exception:
        assert not raise_on_failure
        return self.error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UnavailableError("x", transient=True), True),
        (StoreUnavailableError("x", transient=True), True),
        (UnavailableError("the disk is full"), False),
        (StoreUnavailableError("the disk is full"), False),
        (ConflictError("the same bytes are recorded with other facts"), False),
        (StepError("x"), False),
        (IntegrityError("x"), False),
        (ValueError("x"), False),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, *, again: bool) -> None:
    assert can_be_retried(None, None, FakeState(error)) is again
