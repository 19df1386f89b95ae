"""Timing caches: one key each, the latest that a builder signed, handed out verified."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.attestations import BuildRecord, made_under, sign
from registry.errors import IntegrityError, InvalidRecordError
from registry.manifests import Manifest
from registry.retention import Kind, RetentionPolicy, mark
from registry.scrubbing import scrub
from registry.sweeping import plan_sweep, sweep
from registry.timing import shelf
from registry.timing.types import FILE
from registry.trust import KeyRevocation, Purpose, Trust
from tests.factories.registry import START, Workbench
from tests.factories.timing import KEY, latest, other, publication, shelved

NOTHING_IS_YOUNG = RetentionPolicy(grace=-timedelta(days=1))


def test_a_cache_is_recorded_once_and_comes_back(bench: Workbench, tmp_path: Path) -> None:
    cache = shelved(bench)

    assert shelved(bench) == cache
    assert latest(bench.registry, KEY, simulated=False) == (cache, ())
    file = shelf.fetch(bench.registry, cache, tmp_path / "out")
    assert (file.name, file.read_bytes()) == (FILE, b"timings")


def test_the_last_writer_of_a_key_wins(bench: Workbench) -> None:
    shelved(bench, b"first")
    second = shelved(bench, b"second")

    assert latest(bench.registry, KEY, simulated=False) == (second, ())


@pytest.mark.parametrize(
    "field",
    [
        {"gpu": "NVIDIA H200"}, {"compute_capability": "8.9"}, {"tensorrt": "10.14.1.49"},
        {"cuda_runtime": "13.1"}, {"cuda_driver": "13.1"},
    ],
    ids=lambda field: next(iter(field)),
)  # fmt: skip
def test_a_cache_of_another_key_is_never_found(bench: Workbench, field: dict[str, str]) -> None:
    shelved(bench)

    assert latest(bench.registry, other(**field), simulated=False) == (None, ())


def test_the_caches_of_doubles_are_not_those_of_builders(bench: Workbench) -> None:
    simulated = shelved(bench, simulated=True)

    assert latest(bench.registry, KEY, simulated=False) == (None, ())
    assert latest(bench.registry, KEY, simulated=True) == (simulated, ())


@pytest.mark.parametrize("purpose", [Purpose.VERDICT, Purpose.REFERENCE])
def test_what_no_builder_signed_is_not_recorded(bench: Workbench, purpose: Purpose) -> None:
    with pytest.raises(IntegrityError, match="signature does not count"):
        shelf.publish(bench.registry, publication(bench, purpose=purpose))
    assert list(bench.registry.store.list_documents()) == []


def test_one_whose_signer_lost_the_trust_is_passed_over_and_said(bench: Workbench) -> None:
    kept = shelved(bench, b"first")
    thief = replace(bench.signers, builder=type(bench.signers)().builder)
    theirs = replace(bench, signers=thief, registry=replace(bench.registry, trust=thief.trust))
    shelved(theirs, b"second")

    found, doubts = latest(bench.registry, KEY, simulated=False)

    assert found == kept
    assert len(doubts) == 1
    assert "does not count" in str(doubts[0])


def test_none_counts_when_their_only_signer_was_revoked(bench: Workbench) -> None:
    cache = shelved(bench)
    trust = bench.registry.trust
    stolen = KeyRevocation(bench.signers.builder.public_key.keyid, "stolen", START)
    revoked = Trust(trust.keys, (stolen,), clock=trust.clock)
    registry = replace(bench.registry, trust=revoked)

    found, doubts = latest(registry, KEY, simulated=False)

    assert (found, len(doubts)) == (None, 1)
    with pytest.raises(IntegrityError, match="stolen"):
        shelf.fetch(registry, cache, bench.directory / "out")
    assert ("timing cache", cache.digest.short) in {
        (loss.kind, loss.name) for loss in bench.registry.losses(revoked)
    }


def test_an_engines_statement_is_none_of_a_cache(bench: Workbench) -> None:
    engine = bench.publication()

    with pytest.raises(IntegrityError, match="another artifact"):
        shelf.publish(bench.registry, replace(publication(bench), provenance=engine.provenance))


def test_a_builders_statement_about_another_kind_of_artifact_is_none(bench: Workbench) -> None:
    given = publication(bench)
    record = BuildRecord("urn:test:builder", "run-1", bench.clock(), bench.clock())
    statement = made_under(given.manifest, "urn:enginekeeper:another:v1", record)
    envelope = sign(statement, bench.signers.builder)

    with pytest.raises(IntegrityError, match="another kind of artifact"):
        shelf.publish(bench.registry, replace(given, provenance=envelope))


def test_a_row_that_names_another_key_than_was_signed_is_not_believed(bench: Workbench) -> None:
    cache = replace(shelved(bench), key=other(tensorrt="10.13.3.9"))

    with pytest.raises(IntegrityError, match="about another key"):
        shelf.fetch(bench.registry, cache, bench.directory / "out")


def test_bytes_that_were_changed_are_not_handed_out(bench: Workbench, tmp_path: Path) -> None:
    cache = shelved(bench)
    root = Path(bench.registry.store.url.removeprefix("file://"))
    (blob,) = [path for path in (root / "blobs").rglob("*") if path.is_file()]
    blob.chmod(0o644)
    blob.write_bytes(b"timingz")

    with pytest.raises(IntegrityError):
        shelf.fetch(bench.registry, cache, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [finding.name for finding in scrub(bench.registry).findings]


@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_a_damaged_cache_gives_way_to_the_one_before_it_and_is_said(
    bench: Workbench, tmp_path: Path, fault: str
) -> None:
    before = shelved(bench, b"first")
    root = Path(bench.registry.store.url.removeprefix("file://"))
    known = {path for path in (root / "blobs").rglob("*") if path.is_file()}
    shelved(bench, b"second")
    (blob,) = [path for path in (root / "blobs").rglob("*") if path.is_file() and path not in known]
    blob.chmod(0o644)
    blob.write_bytes(b"secund") if fault == "changed" else blob.unlink()

    found, doubts = shelf.fetch_latest(bench.registry, KEY, tmp_path / "out", simulated=False)

    assert found == before
    assert (tmp_path / "out" / FILE).read_bytes() == b"first"
    assert len(doubts) == 1


def test_where_every_cache_is_damaged_there_is_none(bench: Workbench, tmp_path: Path) -> None:
    shelved(bench)
    root = Path(bench.registry.store.url.removeprefix("file://"))
    (blob,) = [path for path in (root / "blobs").rglob("*") if path.is_file()]
    blob.unlink()

    found, doubts = shelf.fetch_latest(bench.registry, KEY, tmp_path / "out", simulated=False)

    assert (found, len(doubts)) == (None, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["engine", "checkpoint"])
def test_only_a_timing_cache_of_the_key_is_one(bench: Workbench, kind: str) -> None:
    given = publication(bench)
    manifest = Manifest.of_directory(given.directory, kind, key=KEY.digest())

    with pytest.raises(InvalidRecordError, match="not that of a timing cache"):
        shelf.publish(bench.registry, replace(given, manifest=manifest))


@pytest.mark.parametrize(
    "field",
    [
        {"gpu": ""}, {"compute_capability": "9"}, {"tensorrt": "10.14.1"}, {"cuda_runtime": "13"},
        {"cuda_driver": "580.95.05"},
    ],
    ids=lambda field: next(iter(field)),
)  # fmt: skip
def test_a_key_is_known_in_full_or_is_none(field: dict[str, str]) -> None:
    with pytest.raises(InvalidRecordError, match=next(iter(field))):
        other(**field)


def test_the_latest_of_each_key_stays_and_the_others_are_swept(bench: Workbench) -> None:
    first, latest = shelved(bench, b"first"), shelved(bench, b"latest")
    elsewhere = shelved(bench, b"first", other(gpu="NVIDIA L4", compute_capability="8.9"))

    report = sweep(bench.registry, plan_sweep(bench.registry, NOTHING_IS_YOUNG))

    assert report.timing_caches == [first.digest]
    with bench.registry.catalogue.read() as view:
        assert {one.digest for one in view.timing.caches()} == {latest.digest, elsewhere.digest}
    shelf.fetch(bench.registry, elsewhere, bench.directory / "still")  # shares the swept one's blob


def test_a_young_cache_stays(bench: Workbench) -> None:
    for content in (b"first", b"latest"):
        shelved(bench, content)

    with bench.registry.catalogue.read() as view:
        marked = mark(view, RetentionPolicy(), bench.clock())

    found = [one.reasons for one in marked if one.kind is Kind.TIMING_CACHE]
    assert found == [("young", "newest"), ("young",)]


def test_documents_without_a_row_are_orphans(bench: Workbench) -> None:
    cache = shelved(bench)
    with bench.registry.catalogue.edit() as draft:
        draft.timing.remove(cache.digest)

    plan = plan_sweep(bench.registry, NOTHING_IS_YOUNG)

    assert [one.folder for one in plan.unknown] == [cache.path]


def test_publishing_is_in_the_audit_log(bench: Workbench) -> None:
    cache = shelved(bench)

    with bench.registry.catalogue.read() as view:
        entry = view.last_audit_entry()

    assert entry is not None
    assert (entry.action, entry.subject) == ("timing cache publish", str(cache.digest))
