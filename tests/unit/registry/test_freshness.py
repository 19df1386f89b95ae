"""Snapshots: what is old, foreign or set back opens nothing, and what was revoked stays so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from registry.attestations import Statement, sign
from registry.blobs.interface import BlobStore
from registry.blobs.local import LocalBlobStore
from registry.blobs.s3 import S3BlobStore
from registry.blobs.s3_location import S3Location
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    GateClosedError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
)
from registry.evidence_gate import EvidenceGate
from registry.exchange import evidence_of
from registry.freshness import (
    Freshness,
    SnapshotReader,
    differences,
    is_set_back,
    with_swept,
)
from registry.lifecycle import revoke
from registry.models import StandingRow, WaiverRow
from registry.seen import Memory
from registry.snapshots import SNAPSHOT, RegistryState, Snapshot, read_snapshot, sealed
from registry.trust import KeyRevocation, Purpose
from tests.factories.registry import CPU, START, Workbench, with_registry

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.fixture
def strict(bench: Workbench, tmp_path: Path) -> Workbench:
    """A registry whose trust asks for snapshots, an hour before they would expire."""
    trust = replace(bench.signers.trust, snapshot_required=True, clock=lambda: START + HOUR)
    return with_registry(bench, trust=trust, snapshots=reader(tmp_path / "seen.json"))


def reader(path: Path) -> SnapshotReader:
    return SnapshotReader(Memory(path))


def publish(bench: Workbench, lifetime: timedelta = WEEK) -> Snapshot:
    registry = bench.registry
    assert registry.snapshots is not None
    return registry.snapshots.publish(
        registry.store, registry.trust, registry.state, lifetime, (bench.signers.keeper,)
    )


def later(bench: Workbench, by: timedelta) -> Workbench:
    trust = replace(bench.registry.trust, clock=lambda: START + by)
    return with_registry(bench, trust=trust)


def put_back(store: BlobStore, data: bytes) -> None:
    store.put_document(SNAPSHOT, data, if_absent=False)


def rule(bench: Workbench, engine: Any) -> str:  # noqa: ANN401 - an engine
    return bench.registry.gate(engine.digest, CPU).rule


def test_a_registry_that_asks_for_none_opens_without_one(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    assert bench.registry.freshness() is None
    assert rule(bench, engine) == "qualified"


def test_without_a_snapshot_nothing_new_is_deployed(strict: Workbench) -> None:
    engine = strict.publish()
    strict.judge(engine)
    assert rule(strict, engine) == "stale-snapshot"
    publish(strict)
    assert rule(strict, engine) == "qualified"


def test_a_process_that_remembers_nothing_deploys_nothing(strict: Workbench) -> None:
    engine = strict.publish()
    strict.judge(engine)
    publish(strict)
    assert rule(with_registry(strict, snapshots=None), engine) == "stale-snapshot"


@pytest.mark.parametrize(("by", "expected"), [(WEEK, "qualified"), (WEEK + HOUR, "stale-snapshot")])
def test_an_expired_snapshot_opens_nothing(strict: Workbench, by: timedelta, expected: str) -> None:
    engine = strict.publish()
    strict.judge(engine)
    publish(strict)
    assert rule(later(strict, by), engine) == expected


def test_an_old_snapshot_is_refused_by_whoever_has_seen_a_newer_one(
    strict: Workbench, tmp_path: Path
) -> None:
    engine = strict.publish()
    strict.judge(engine)
    publish(strict)
    old = strict.registry.store.get_document(SNAPSHOT)
    publish(strict)
    put_back(strict.registry.store, old)
    decision = strict.registry.gate(engine.digest, CPU)
    assert decision.rule == "stale-snapshot"
    assert "version 2" in "\n".join(decision.evidence)
    newcomer = with_registry(strict, snapshots=reader(tmp_path / "another machine.json"))
    assert rule(newcomer, engine) == "qualified"  # what it has never seen it cannot miss


def test_two_snapshots_of_one_version_are_not_both_believed(strict: Workbench) -> None:
    made = publish(strict)
    trust = strict.registry.trust
    other = sealed(RegistryState(), made.version, START, START + 2 * WEEK, strict.signers.keeper)
    put_back(strict.registry.store, other)
    assert strict.registry.snapshots is not None
    with pytest.raises(IntegrityError, match="another than"):
        strict.registry.snapshots.snapshot(strict.registry.store, trust)


def test_a_snapshot_that_is_gone_opens_nothing(strict: Workbench) -> None:
    publish(strict)
    path = Path(strict.registry.store.url.removeprefix("file://")) / SNAPSHOT
    path.unlink()
    fresh = strict.registry.freshness()
    assert fresh is not None
    assert fresh.fault is not None


def test_publishing_mends_a_store_that_was_set_back(strict: Workbench) -> None:
    first = publish(strict)
    old = strict.registry.store.get_document(SNAPSHOT)
    publish(strict)
    publish(strict)
    put_back(strict.registry.store, old)
    assert (first.version, publish(strict).version) == (1, 4)


@pytest.mark.parametrize("role", ["builder", "validator", "approver", "simulated_keeper"])
def test_only_a_keeper_signs_snapshots(strict: Workbench, role: str) -> None:
    forged = sealed(RegistryState(), 9, START, START + WEEK, getattr(strict.signers, role))
    put_back(strict.registry.store, forged)
    with pytest.raises(IntegrityError, match="signature does not count"):
        read_snapshot(forged, strict.registry.trust)
    fresh = strict.registry.freshness()
    assert fresh is not None
    assert fresh.snapshot is None


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"version": True}, {"version": "1"}, {"expiresAt": 5},
               {"expiresAt": "2026-12-24"}, {"state": {}}, {"state": None}],
)  # fmt: skip
def test_a_malformed_snapshot_is_refused_though_well_signed(
    strict: Workbench, change: dict[str, Any]
) -> None:
    predicate = {
        "version": 1, "issuedAt": START.isoformat(), "expiresAt": (START + WEEK).isoformat(),
        "state": RegistryState().as_dict(), **change,
    }  # fmt: skip
    statement = Statement(digest_bytes(b"s"), Purpose.SNAPSHOT, predicate, "snapshot")
    with pytest.raises(IntegrityError, match="malformed"):
        read_snapshot(sign(statement, strict.signers.keeper), strict.registry.trust)


def test_a_key_that_the_snapshot_revokes_opens_nothing_even_where_the_trust_file_is_old(
    strict: Workbench,
) -> None:
    engine = strict.publish()
    strict.judge(engine)
    gone = KeyRevocation(strict.signers.builder.public_key.keyid, "stolen", START)
    trust = strict.registry.trust
    publish(with_registry(strict, trust=trust.revoking(gone)))
    assert rule(strict, engine) == "build-not-attested"


def test_an_engine_that_the_snapshot_revokes_stays_closed_without_its_row(
    strict: Workbench,
) -> None:
    engine = strict.publish()
    strict.judge(engine)
    strict.waive(engine, "stale-snapshot", "verdict-failed")
    state = replace(strict.registry.state(), revoked_engines=frozenset({engine.digest}))
    put_back(strict.registry.store, sealed(state, 1, START, START + WEEK, strict.signers.keeper))
    assert rule(strict, engine) == "revoked"
    assert rule(later(strict, 2 * WEEK), engine) == "revoked"


def test_a_catalogue_from_before_a_revocation_opens_nothing(strict: Workbench) -> None:
    engine = strict.publish()
    strict.judge(engine)
    revoke(strict.registry, engine, "wrong answers", strict.signers.revoker)
    made = publish(strict)
    assert made.state.revoked_engines == {engine.digest}
    with strict.registry.catalogue.edit() as draft:
        draft._session.execute(delete(StandingRow))
    assert rule(strict, engine) == "revoked"
    assert is_set_back(made.state, found(strict, made))
    again = publish(strict)
    assert (again.version, set(again.state.revoked_engines)) == (2, {engine.digest})
    assert rule(strict, engine) == "revoked"
    assert is_set_back(again.state, found(strict, again))


def test_a_revoked_engine_that_was_swept_is_no_catalogue_set_back(strict: Workbench) -> None:
    engine = strict.publish()
    revoke(strict.registry, engine, "wrong answers", strict.signers.revoker)
    publish(strict)
    with strict.registry.catalogue.edit() as draft:
        draft.remove_engine(engine.digest)
    again = publish(strict)
    assert again.state.revoked_engines == {engine.digest}
    assert not is_set_back(again.state, found(strict, again))
    assert differences(again.state, found(strict, again)) == []


def found(bench: Workbench, signed: Snapshot) -> RegistryState:
    with bench.registry.catalogue.read() as view:
        return with_swept(bench.registry.state(), signed.state, view)


def test_a_waiver_counts_once_a_snapshot_has_it(strict: Workbench) -> None:
    engine = strict.publish()
    publish(strict)
    strict.waive(engine, "never-judged")
    assert rule(strict, engine) == "never-judged"
    publish(strict)
    assert rule(strict, engine) == "waived"


def test_a_waiver_whose_end_was_taken_from_the_catalogue_does_not_come_back(
    strict: Workbench,
) -> None:
    engine = strict.publish()
    waiver = strict.waive(engine, "never-judged")
    publish(strict)
    ended = strict.end(waiver)
    publish(strict)
    with strict.registry.catalogue.edit() as draft:
        draft._row(WaiverRow, ended.digest).ending = None
    assert rule(strict, engine) == "never-judged"


def test_break_glass_opens_without_a_snapshot_and_lets_nothing_else_through(
    strict: Workbench,
) -> None:
    engine, failed = strict.publish(), strict.publish(content=b"failed")
    strict.judge(engine)
    strict.waive(engine, "stale-snapshot")
    strict.waive(failed, "stale-snapshot", "never-judged")
    assert rule(strict, engine) == "waived"
    assert rule(strict, failed) == "never-judged"


def test_of_two_publishers_the_slower_one_begins_again(strict: Workbench, tmp_path: Path) -> None:
    registry = strict.registry
    calls: list[int] = []

    def state() -> RegistryState:
        if not calls:
            calls.append(1)
            publish(with_registry(strict, snapshots=reader(tmp_path / "other.json")), 2 * WEEK)
        return registry.state()

    mine = reader(tmp_path / "mine.json").publish(
        registry.store, registry.trust, state, WEEK, (strict.signers.keeper,)
    )
    assert mine.version == 2


def test_a_publisher_gives_up_in_the_end(strict: Workbench, tmp_path: Path) -> None:
    def state() -> RegistryState:
        publish(strict, 2 * WEEK)
        return RegistryState()

    with pytest.raises(ConflictError):
        reader(tmp_path / "mine.json").publish(
            strict.registry.store, strict.registry.trust, state, WEEK, (strict.signers.keeper,)
        )


def test_a_snapshot_that_expires_before_it_begins_is_not_signed(bench: Workbench) -> None:
    with pytest.raises(InvalidRecordError):
        sealed(RegistryState(), 1, START, START, bench.signers.keeper)


def test_a_reader_without_a_snapshot_is_told(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError):
        reader(tmp_path / "seen.json").snapshot(bench.registry.store, bench.signers.trust)
    assert Freshness(None, "x").trusting(bench.signers.trust) == bench.signers.trust


def test_a_catalogue_that_lost_a_revocation_was_set_back(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    before = bench.registry.state()
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    after = bench.registry.state()
    (row,) = differences(before, after)
    assert row["found"] == engine.digest.short
    assert not is_set_back(before, after)
    signed = replace(before, revoked_engines=frozenset({engine.digest}))
    assert is_set_back(signed, after)
    json.dumps(differences(signed, after))


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"schema": 2, "stores": {}}', b'{"schema": 1}',
     b'{"schema": 1, "stores": {"STORE": {"version": "1", "digest": "x"}}}'],
)  # fmt: skip
def test_a_damaged_memory_closes_the_gate_and_says_so(
    strict: Workbench, tmp_path: Path, damage: bytes
) -> None:
    engine = strict.publish()
    strict.judge(engine)
    publish(strict)
    (tmp_path / "seen.json").write_bytes(damage)
    decision = strict.registry.gate(engine.digest, CPU)
    assert (decision.rule, decision.is_open) == ("stale-snapshot", False)
    assert "what was seen of the registry cannot be read" in "\n".join(decision.evidence)
    assert (tmp_path / "seen.json").read_bytes() == damage  # evidence: nothing writes over it


def test_a_memory_that_is_no_file_closes_the_gate(strict: Workbench, tmp_path: Path) -> None:
    engine = strict.publish()
    strict.judge(engine)
    publish(strict)
    (tmp_path / "seen.json").unlink()
    (tmp_path / "seen.json").mkdir()
    assert rule(strict, engine) == "stale-snapshot"


def offline(strict: Workbench, engine: Any, kept: bytes) -> str:  # noqa: ANN401 - an engine
    """Returns what a node says without its registry, by a snapshot that it kept."""
    registry = strict.registry
    gate = EvidenceGate(
        registry.trust, registry.compatibility, snapshot=kept, reader=registry.snapshots,
        store=registry.store.origin,
    )  # fmt: skip
    return gate.decide(evidence_of(registry, engine), CPU).rule


def kept_then_moved(strict: Workbench) -> tuple[Any, Any, Any, bytes]:
    """Returns engines of which one passed, one failed and one is waived, and a kept snapshot."""
    good, bad, waived = (strict.publish(content=one) for one in (b"good", b"bad", b"waived"))
    strict.judge(good)
    strict.judge(bad)
    strict.waive(waived, "never-judged")
    publish(strict)
    return good, bad, waived, strict.registry.store.get_document(SNAPSHOT)


def test_an_older_snapshot_that_was_kept_does_not_undo_what_was_seen_since(
    strict: Workbench,
) -> None:
    good, bad, waived, kept = kept_then_moved(strict)
    assert [offline(strict, one, kept) for one in (good, bad, waived)] == [
        "qualified", "qualified", "waived",
    ]  # fmt: skip
    evidence = evidence_of(strict.registry, bad)
    revoke(strict.registry, bad, "leaks", strict.signers.revoker)
    publish(strict)
    registry = strict.registry
    stale = EvidenceGate(
        registry.trust, registry.compatibility, snapshot=kept, reader=registry.snapshots,
        store=registry.store.origin,
    )  # fmt: skip
    assert stale.decide(evidence, CPU).rule == "revoked"
    assert [offline(strict, one, kept) for one in (good, waived)] == ["qualified", "never-judged"]


def test_a_memory_that_kept_only_numbers_believes_no_older_snapshot(strict: Workbench) -> None:
    good, *_, kept = kept_then_moved(strict)
    publish(strict)
    assert strict.registry.snapshots is not None
    path = strict.registry.snapshots.memory.path
    document = json.loads(path.read_text())
    for entry in document["stores"].values():
        del entry["revoked"]
    path.write_text(json.dumps(document))
    assert offline(strict, good, kept) == "stale-snapshot"
    path.write_text("{")
    assert offline(strict, good, kept) == "stale-snapshot"


def test_what_the_snapshot_revokes_goes_nowhere_though_its_row_is_lost(strict: Workbench) -> None:
    engine = strict.publish()
    publish(strict)
    strict.registry.require_unheld(engine)
    revoke(strict.registry, engine, "leaks", strict.signers.revoker)
    publish(strict)
    with strict.registry.catalogue.edit() as draft:
        draft._session.execute(delete(StandingRow))
    with pytest.raises(GateClosedError, match="held"):
        strict.registry.require_unheld(engine)


@pytest.mark.parametrize("spelling", ["link", "up and down"])
def test_a_store_that_was_set_back_is_known_however_its_address_is_spelled(
    strict: Workbench, tmp_path: Path, spelling: str
) -> None:
    publish(strict)
    old = strict.registry.store.get_document(SNAPSHOT)
    publish(strict)
    strict.registry.store.put_document(SNAPSHOT, old, if_absent=False)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    path = tmp_path / "link" if spelling == "link" else tmp_path / "store" / ".." / "store"
    again = with_registry(strict, store=LocalBlobStore(path))
    found = again.registry.freshness()
    assert found is not None
    assert "older than" in (found.fault or "")


def test_two_servers_with_a_bucket_of_one_name_are_two_stores() -> None:
    urls = [f"s3://engines/p?endpoint_url=http://{name}:9000&region=eu" for name in ("a", "b")]
    a, b = (S3BlobStore(S3Location.from_url(url)) for url in urls)
    assert a.origin == "s3://engines/p?endpoint_url=http://a:9000"
    assert b.origin != a.origin


def test_a_server_that_the_environment_names_is_the_same_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = S3BlobStore(S3Location.from_url("s3://engines/p?endpoint_url=http://a:9000"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://a:9000")
    assert S3BlobStore(S3Location("engines", "p", region="eu")).origin == named.origin


def test_on_aws_the_region_is_no_part_of_what_a_store_is_remembered_by() -> None:
    assert S3BlobStore(S3Location("engines", "p", region="eu-west-1")).origin == "s3://engines/p"


def test_what_an_earlier_version_saw_under_the_address_counts_on(
    strict: Workbench, tmp_path: Path
) -> None:
    strict.publish()
    (tmp_path / "link").symlink_to(Path(strict.registry.store.url.removeprefix("file://")))
    linked = with_registry(strict, store=LocalBlobStore(tmp_path / "link"))
    publish(linked)
    old = linked.registry.store.get_document(SNAPSHOT)
    publish(linked)
    assert linked.registry.snapshots is not None
    path = linked.registry.snapshots.memory.path
    document = json.loads(path.read_text())
    store = linked.registry.store
    document["stores"] = {store.url: document["stores"][store.origin]}
    path.write_text(json.dumps(document))
    store.put_document(SNAPSHOT, old, if_absent=False)
    fresh = linked.registry.freshness()
    assert fresh is not None
    assert "version 2" in str(fresh.fault)
    assert publish(linked).version == 3
