"""References: found by what made them, believed by their signature, handed out verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.digests import Digest
from registry.errors import ConflictError, IntegrityError, InvalidRecordError
from registry.manifests import Manifest
from registry.trust import Purpose, Trust
from registry.types import Reference
from tests.factories.registry import REFERENCE_KEY, WEIGHTS, Workbench, other, with_registry


def test_a_reference_is_recorded_once_and_comes_back(bench: Workbench, tmp_path: Path) -> None:
    reference = bench.record()
    assert bench.record() == reference
    assert bench.registry.references() == [reference]
    assert (reference.key, reference.top_k) == (REFERENCE_KEY, 20)
    bench.registry.fetch_reference(reference, tmp_path / "out")
    assert (tmp_path / "out" / "scores.safetensors").read_bytes() == b"scores"


def test_references_are_found_by_model_and_by_key(bench: Workbench) -> None:
    first, second = bench.record(b"first"), bench.record(b"second")
    elsewhere = bench.record(b"first", other(REFERENCE_KEY))
    assert bench.registry.references(WEIGHTS) == [elsewhere, second, first]
    assert bench.registry.references(other(WEIGHTS)) == []
    assert bench.registry.references(key=REFERENCE_KEY) == [second, first]
    assert bench.registry.references(WEIGHTS, key=other(REFERENCE_KEY)) == [elsewhere]


def test_the_same_bytes_share_a_blob_and_keep_the_first_statement(bench: Workbench) -> None:
    first, second = bench.reference(), bench.reference()
    assert first.provenance != second.provenance
    reference = bench.registry.record_reference(first)
    assert bench.registry.record_reference(second) == reference
    bench.record(key=other(REFERENCE_KEY))
    root = Path(bench.registry.store.url.removeprefix("file://"))
    assert len([path for path in (root / "blobs").rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("purpose", [Purpose.BUILD, Purpose.VERDICT])
def test_what_no_recorder_signed_is_not_recorded(bench: Workbench, purpose: Purpose) -> None:
    wrong = replace(bench.signers, recorder=bench.signers.of(purpose, simulated=False))
    with pytest.raises(IntegrityError, match="signature does not count"):
        replace(bench, signers=wrong).record()
    assert bench.registry.references() == []
    assert list(bench.registry.store.list_documents()) == []


def test_a_statement_about_other_scores_does_not_help(bench: Workbench) -> None:
    good, forged = bench.reference(), bench.reference(b"forged")
    with pytest.raises(IntegrityError, match="another artifact"):
        bench.registry.record_reference(replace(forged, provenance=good.provenance))


@pytest.mark.parametrize(("kind", "key"), [("engine", REFERENCE_KEY), ("reference", None)])
def test_only_a_reference_with_a_key_is_one(
    bench: Workbench, kind: str, key: Digest | None
) -> None:
    publication = bench.reference()
    manifest = Manifest.of_directory(publication.directory, kind, key=key)
    with pytest.raises(InvalidRecordError, match="not that of a reference"):
        bench.registry.record_reference(replace(publication, manifest=manifest))


@pytest.mark.parametrize(
    "fact",
    [
        {"suite": REFERENCE_KEY}, {"tokens": REFERENCE_KEY}, {"runtime": "vllm 1"},
        {"dtype": "bfloat16"}, {"top_k": 5},
    ],
    ids=lambda fact: next(iter(fact)),
)  # fmt: skip
def test_the_same_reference_with_other_facts_is_a_conflict(
    bench: Workbench, fact: dict[str, object]
) -> None:
    publication = bench.reference()
    bench.registry.record_reference(publication)
    with pytest.raises(ConflictError, match="other facts"):
        bench.registry.record_reference(replace(publication, **fact))  # type: ignore[arg-type]


def _another_blob(bench: Workbench, reference: Reference) -> Reference:
    root = Path(bench.registry.store.url.removeprefix("file://"))
    (blob,) = (path for path in (root / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"scored")
    return reference


def _another_manifest(bench: Workbench, reference: Reference) -> Reference:
    forged = bench.reference(b"forged").manifest.to_bytes()
    name = f"{reference.path}/manifest.json"
    bench.registry.store.put_document(name, forged, if_absent=False)
    return reference


def _another_key(_bench: Workbench, reference: Reference) -> Reference:
    return replace(reference, key=other(reference.key))


def _another_artifact(bench: Workbench, reference: Reference) -> Reference:
    forged = bench.record(b"forged")
    return replace(reference, digest=forged.digest, path=forged.path)


def _the_other_world(_bench: Workbench, reference: Reference) -> Reference:
    return replace(reference, simulated=True)


@pytest.mark.parametrize(
    "forge", [_another_blob, _another_manifest, _another_key, _another_artifact, _the_other_world]
)
def test_nothing_forged_is_handed_out(
    bench: Workbench, tmp_path: Path, forge: Callable[[Workbench, Reference], Reference]
) -> None:
    forged = forge(bench, bench.record())
    with pytest.raises(IntegrityError):
        bench.registry.fetch_reference(forged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reference_of_a_recorder_no_longer_trusted_is_not_handed_out(
    bench: Workbench, tmp_path: Path
) -> None:
    reference = bench.record()
    with pytest.raises(IntegrityError, match="signature does not count"):
        with_registry(bench, trust=Trust()).registry.fetch_reference(reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reference_whose_bytes_are_gone_is_said_to_be_gone(
    bench: Workbench, tmp_path: Path
) -> None:
    reference = bench.record()
    for path in Path(bench.registry.store.url.removeprefix("file://"), "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(IntegrityError, match=r"scores\.safetensors"):
        bench.registry.fetch_reference(reference, tmp_path / "out")
