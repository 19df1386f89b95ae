"""Bundles and exports: verified offline, whole or not at all, and nothing but what is due."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from registry.attestations import sign
from registry.bundles import (
    check_digest,
    directory_checks,
    read_directory,
    unpack,
    write_bundle,
    write_directory,
)
from registry.digests import Digest, digest_file
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RegistryError,
)
from registry.evidence import EVIDENCE, Evidence
from registry.evidence_gate import EvidenceGate
from registry.exchange import evidence_of, import_bundle, recorded_checks
from registry.lifecycle import revoke
from registry.manifests import FileEntry, Manifest
from registry.revocations import Revocation, revocation
from registry.trust import KeyRevocation, Trust
from registry.types import Engine, Result
from tests.factories.registry import CPU, START, Workbench, make_workbench
from tests.fakes.bundles import ATTACKS, faults, member, members_of, packed


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    return bench.publish_judged()


@pytest.fixture
def bundle(bench: Workbench, engine: Engine, tmp_path: Path) -> Path:
    path = tmp_path / "engine.bundle"
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), path)
    return path


def elsewhere(bench: Workbench, directory: Path) -> Workbench:
    """Makes another registry, empty, with the same trust and the same signers."""
    other = make_workbench(directory)
    trusting = replace(other.registry, trust=bench.signers.trust, clock=bench.clock)
    return replace(other, registry=trusting, signers=bench.signers, clock=bench.clock)


def test_an_export_is_verified_without_a_registry(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    write_directory(bench.registry.store, evidence_of(bench.registry, engine), tmp_path / "out")
    bench.registry.catalogue.close()
    (tmp_path / "store").rename(tmp_path / "gone")
    found = directory_checks(tmp_path / "out", bench.signers.trust)
    assert [one.what for one in found] == [
        "bytes", "manifest", "build", "verdict", "summary", "verdict", "summary", "waiver",
    ]  # fmt: skip
    assert all(one.fault is None for one in found)
    assert "revoked" in found[-1].detail
    json.dumps([one.as_dict() for one in found])


def test_a_recorded_engine_is_verified_with_every_byte(bench: Workbench, engine: Engine) -> None:
    assert all(one.fault is None for one in recorded_checks(bench.registry, engine))
    blob = max((bench.directory / "store" / "blobs").rglob("*"), key=lambda one: one.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"rotten")
    assert next(iter(recorded_checks(bench.registry, engine))).fault is not None


def edited(out: Path, field: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
    document = json.loads((out / EVIDENCE).read_text())
    document[field] = value
    (out / EVIDENCE).write_text(json.dumps(document))


def edited_key(out: Path) -> None:
    key = json.loads((out / EVIDENCE).read_text())["key"]
    key["hard"]["torch"] = "2.14.0"
    edited(out, "key", key)


def edited_verdict(out: Path) -> None:
    verdicts = json.loads((out / EVIDENCE).read_text())["verdicts"]
    verdicts[0]["document"]["result"] = "pass"
    edited(out, "verdicts", verdicts)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a changed byte": ("bytes", lambda out: (out / "engine/config.json").write_bytes(b"{}")),
    "a lost file": ("bytes", lambda out: (out / "engine/config.json").unlink()),
    "a file more": ("bytes", lambda out: (out / "engine/plugin.so").write_bytes(b"x")),
    "a file beside": ("bytes", lambda out: (out / "plugin.so").write_bytes(b"x")),
    "a link": ("bytes", lambda out: (out / "engine/link").symlink_to("/etc/passwd")),
    "another name": ("build", lambda out: edited(out, "variant", "llama-70b.fp8.tp1.h100-sxm")),
    "another recipe": ("build", lambda out: edited(out, "recipe", "fp8")),
    "no builder": ("build", lambda out: edited(out, "build", "{}")),
    "another key": ("manifest", edited_key),
    "another verdict": ("verdict", edited_verdict),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_changed_in_an_export_is_named(
    bench: Workbench, engine: Engine, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    write_directory(bench.registry.store, evidence_of(bench.registry, engine), out)
    what, change = DAMAGES[damage]
    change(out)
    assert what in faults(out, bench.signers.trust)


def test_who_is_not_trusted_verifies_nothing(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_directory(bench.registry.store, evidence_of(bench.registry, engine), out)
    assert {"build", "verdict", "summary", "waiver"} >= set(faults(out, Trust())) >= {"build"}
    gone = KeyRevocation(bench.signers.builder.public_key.keyid, "stolen", START)
    assert faults(out, bench.signers.trust.revoking(gone)) == ["build"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema":2}', '{"schema":1,"manifest":{}}'])
def test_what_is_no_evidence_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / EVIDENCE).write_text(text)
    with pytest.raises(InvalidRecordError):
        read_directory(tmp_path)


def test_evidence_is_read_as_it_was_written(bench: Workbench, engine: Engine) -> None:
    evidence = evidence_of(bench.registry, engine)
    assert Evidence.from_bytes(evidence.to_bytes()) == evidence


def test_a_bundle_is_taken_in_whole_and_twice_is_once(
    bench: Workbench, engine: Engine, bundle: Path, tmp_path: Path
) -> None:
    other = elsewhere(bench, tmp_path / "other")
    for _ in range(2):
        done = import_bundle(other.registry, bundle, tmp_path / "scratch")
        assert (done.engine.digest, done.verdicts, done.superseded) == (engine.digest, 2, 0)
    assert [one.digest for one in other.registry.verdicts(engine.digest)] == [
        one.digest for one in bench.registry.verdicts(engine.digest)
    ]
    assert other.registry.gate(engine.digest, CPU).rule == "qualified"
    assert [one.ending is None for one in other.registry.waivers(engine.digest)] == [False]
    other.registry.fetch_engine(engine.digest, tmp_path / "fetched")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_old_bundle_brings_back_no_pass(
    bench: Workbench, engine: Engine, bundle: Path, tmp_path: Path
) -> None:
    other = elsewhere(bench, tmp_path / "other")
    publication = bench.publication()
    other.registry.publish_engine(publication)
    other.judge(engine, Result.FAIL)
    done = import_bundle(other.registry, bundle, tmp_path / "scratch")
    assert (done.verdicts, done.superseded) == (1, 1)
    assert other.registry.gate(engine.digest, CPU).rule == "verdict-failed"


@pytest.mark.parametrize("late", [Result.FAIL, Result.INCONCLUSIVE])
def test_an_old_bundle_closes_nothing_that_passed_since(
    bench: Workbench, late: Result, tmp_path: Path
) -> None:
    engine, other = bench.publish(), elsewhere(bench, tmp_path / "other")
    bench.judge(engine, late)
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), tmp_path / "old")
    other.registry.publish_engine(bench.publication())
    other.judge(engine)
    done = import_bundle(other.registry, tmp_path / "old", tmp_path / "scratch")
    assert (done.verdicts, done.superseded) == (0, 1)
    assert other.registry.gate(engine.digest, CPU).rule == "qualified"
    gate = EvidenceGate(bench.signers.trust, lambda _key, _environment: None)
    assert gate.decide(evidence_of(other.registry, engine), CPU).rule == "qualified"


@pytest.mark.parametrize("order", [1, -1], ids=["as recorded", "turned"])
@pytest.mark.parametrize("results", list(permutations((Result.PASS, Result.FAIL))), ids=str)
def test_what_opens_here_by_evidence_opens_there_and_no_order_opens_more(
    bench: Workbench, results: tuple[Result, ...], order: int, tmp_path: Path
) -> None:
    """A failure that was recorded after a later pass closes: some clock was wrong."""
    engine, other = bench.publish(), elsewhere(bench, tmp_path / "other")
    first, second = (bench.verdict_on(engine, one) for one in results)
    for document, envelope in (first, second)[:: 1 if results[0] is Result.FAIL else -1]:
        with suppress(ConflictError):  # a pass that is older is not recorded
            bench.registry.record_verdict(engine.digest, document, envelope)
    evidence = evidence_of(bench.registry, engine)
    evidence = replace(evidence, judgements=evidence.judgements[::order])
    write_bundle(bench.registry.store, evidence, tmp_path / "b")
    import_bundle(other.registry, tmp_path / "b", tmp_path / "scratch")
    there = other.registry.gate(engine.digest, CPU).rule
    gate = EvidenceGate(bench.signers.trust, lambda _key, _environment: None)
    assert gate.decide(evidence, CPU).rule == there
    expected = results == (Result.FAIL, Result.PASS) and order == 1
    assert there == ("qualified" if expected else "verdict-failed")


def test_a_failure_that_is_recorded_after_a_later_pass_closes_with_and_without_the_registry(
    bench: Workbench,
) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine, Result.FAIL)
    bench.judge(engine)
    bench.registry.record_verdict(engine.digest, document, envelope)
    gate = EvidenceGate(bench.signers.trust, lambda _key, _environment: None)
    offline = gate.decide(evidence_of(bench.registry, engine), CPU)
    assert {offline.rule, bench.registry.gate(engine.digest, CPU).rule} == {"verdict-failed"}


def test_a_bundle_of_strangers_leaves_nothing(
    bench: Workbench, bundle: Path, tmp_path: Path
) -> None:
    other = make_workbench(tmp_path / "other")
    with pytest.raises(IntegrityError, match="build does not verify"):
        import_bundle(other.registry, bundle, tmp_path / "scratch")
    assert other.registry.engines() == []
    assert list(other.registry.store.list_documents()) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert bench.registry.engines()


def test_the_same_engine_makes_the_same_bundle(
    bench: Workbench, engine: Engine, bundle: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.bundle"
    digest = write_bundle(bench.registry.store, evidence_of(bench.registry, engine), again)
    assert digest == digest_file(bundle)
    check_digest(bundle, digest.value)
    with pytest.raises(IntegrityError, match="not the one that was sent"):
        check_digest(bundle, "0" * 64)
    with pytest.raises(ConflictError):
        write_bundle(bench.registry.store, evidence_of(bench.registry, engine), again)


def test_files_of_one_content_are_carried_once(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish(content=b'{"version": 1}')
    path = tmp_path / "engine.bundle"
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), path)
    with tarfile.open(path) as archive:
        assert next(one.name for one in archive) == EVIDENCE
        assert len(archive.getnames()) == 2
    unpack(path, bench.signers.trust, tmp_path / "out")
    assert faults(tmp_path / "out", bench.signers.trust) == []


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_holds_anything_else_leaves_nothing(
    bench: Workbench, bundle: Path, tmp_path: Path, attack: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    bad = packed(ATTACKS[attack](members_of(bundle)), tmp_path / "bad.bundle")
    with pytest.raises(IntegrityError):
        unpack(bad, bench.signers.trust, place / "out")
    assert left(place) == []
    other = elsewhere(bench, tmp_path / "other")
    with pytest.raises(IntegrityError):
        import_bundle(other.registry, bad, place)
    assert (other.registry.engines(), left(place)) == ([], [])


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "compressed": gzip.compress,
    "empty": lambda _: b"",
    "cut in a header": lambda data: data[:700],
    "cut in a blob": lambda data: data[: len(data) // 2],
    "without an end": lambda data: data.rstrip(b"\0"),
    "with something behind": lambda data: data + b"#!/bin/sh",
    "with an archive behind": lambda data: data + data,
    "with a long tail of nothing": lambda data: data + bytes(1 << 20),
}


@pytest.mark.parametrize("change", BYTES)
def test_a_file_that_is_no_whole_bundle_leaves_nothing(
    bench: Workbench, bundle: Path, tmp_path: Path, change: str
) -> None:
    place, bad = tmp_path / "place", tmp_path / "bad.bundle"
    place.mkdir()
    bad.write_bytes(BYTES[change](bundle.read_bytes()))
    with pytest.raises(IntegrityError):
        unpack(bad, bench.signers.trust, place / "out")
    assert left(place) == []


@given(st.data())
@settings(
    max_examples=50, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_no_flipped_bit_of_a_bundle_is_taken_for_another_engine(
    bench: Workbench, engine: Engine, bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    good = bundle.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad, out = tmp_path / "bad.bundle", tmp_path / "place" / "out"
    bad.write_bytes(good[:at] + bytes([good[at] ^ (1 << (at % 8))]) + good[at + 1 :])
    try:
        evidence = unpack(bad, bench.signers.trust, out)
    except RegistryError:
        assert not out.exists()
        return
    assert evidence.manifest.digest == engine.digest  # a field of the header that says nothing
    assert faults(out, bench.signers.trust) == []
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    out.rmdir()


@pytest.mark.parametrize(
    "path", ["../escape", "/etc/passwd", "a/../../b", "engine\\x", "", "a//b", "a/./b"]
)
def test_a_manifest_that_leaves_its_directory_is_refused(
    bench: Workbench, bundle: Path, tmp_path: Path, path: str
) -> None:
    members = members_of(bundle)
    document = json.loads(members[0][1])
    document["manifest"]["files"][0]["path"] = path
    members[0] = member(EVIDENCE, json.dumps(document).encode())
    bad = packed(members, tmp_path / "bad.bundle")
    with pytest.raises(InvalidRecordError):
        unpack(bad, bench.signers.trust, tmp_path / "place" / "out")
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize("field", ["variant", "target", "recipe"])
def test_a_name_that_leaves_its_directory_is_refused(
    bench: Workbench, bundle: Path, tmp_path: Path, field: str
) -> None:
    members = members_of(bundle)
    document = {**json.loads(members[0][1]), field: "../../x"}
    members[0] = member(EVIDENCE, json.dumps(document).encode())
    with pytest.raises(RegistryError):
        unpack(packed(members, tmp_path / "bad.bundle"), bench.signers.trust, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_that_contradict_each_other_are_refused(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    evidence = evidence_of(bench.registry, engine)
    digest = Digest("sha256", "0" * 64)
    files = (FileEntry("a", 1, digest), FileEntry("b", 2, digest))
    manifest = Manifest("engine", files, engine.key.digest())
    with pytest.raises(IntegrityError, match="several sizes"):
        write_bundle(
            bench.registry.store, replace(evidence, manifest=manifest), tmp_path / "x.bundle"
        )
    assert not (tmp_path / "x.bundle").exists()


def test_what_claims_to_be_a_revocation_is_a_fault_of_a_directory(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    evidence = replace(evidence_of(bench.registry, engine), revocations=("{}",))
    write_directory(bench.registry.store, evidence, tmp_path / "out")
    assert faults(tmp_path / "out", bench.signers.trust) == ["revocation"]


@pytest.mark.parametrize("forger", ["nobody", "stranger", "validator", "simulated_revoker"])
def test_a_revocation_that_nobody_trusted_signed_is_not_taken_in(
    bench: Workbench, engine: Engine, tmp_path: Path, forger: str
) -> None:
    forged = b"{}"
    if forger != "nobody":
        said = revocation(engine, Revocation("sabotage", "eve", START))
        stranger = CryptoSigner.generate_ed25519()
        forged = sign(said, getattr(bench.signers, forger, stranger))
    evidence = replace(evidence_of(bench.registry, engine), revocations=(forged.decode(),))
    write_bundle(bench.registry.store, evidence, tmp_path / "x.bundle")
    other = elsewhere(bench, tmp_path / "other")
    other.publish(content=b"another")
    before = sorted(other.registry.store.list_documents())
    for place in (bench, other):  # where the engine is, and where it is not
        with pytest.raises(IntegrityError, match="revocation does not verify"):
            import_bundle(place.registry, tmp_path / "x.bundle", tmp_path / "scratch")
    assert sorted(other.registry.store.list_documents()) == before
    assert bench.registry.gate(engine.digest, CPU).rule == "qualified"


def test_a_revoked_engine_is_revoked_where_it_is_taken_in(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    revoke(bench.registry, engine, "wrong answers", bench.signers.revoker)
    file, other = tmp_path / "x.bundle", elsewhere(bench, tmp_path / "other")
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), file)
    import_bundle(other.registry, file, tmp_path / "scratch")
    assert other.registry.gate(engine.digest, CPU).rule == "revoked"
    assert faults_of(other, engine) == ["revocation"]


def faults_of(bench: Workbench, engine: Engine) -> list[str]:
    found = bench.registry.engine(engine.digest)
    return [one.what for one in recorded_checks(bench.registry, found) if one.fault is not None]


@pytest.mark.parametrize("field", ["source", "architecture"])
def test_what_a_terminal_would_obey_is_taken_in_from_nobody(
    bench: Workbench, engine: Engine, tmp_path: Path, field: str
) -> None:
    evidence, orders = evidence_of(bench.registry, engine), dict[str, Any]({field: "x\x1b[2J"})
    forged = replace(evidence, model=replace(evidence.model, **orders))
    write_bundle(bench.registry.store, forged, tmp_path / "forged")
    with pytest.raises(InvalidRecordError, match="printable"):
        import_bundle(bench.registry, tmp_path / "forged", tmp_path / "scratch")
    said = {"source": "s", "architecture": "a", **orders}
    with pytest.raises(InvalidRecordError, match="printable"):
        bench.registry.record_model(evidence.model.digest, "m", **said)
