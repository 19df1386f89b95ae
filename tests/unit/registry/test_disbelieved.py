"""What lies beside an engine and cannot be believed here and now opens no gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from registry.attestations import sign
from registry.backups.backup import backup, restore
from registry.beside import Lost, find_lost, take_in
from registry.bundles import write_bundle
from registry.errors import GateClosedError, NotYetError
from registry.exchange import evidence_of, import_bundle
from registry.freshness import SnapshotReader
from registry.layout import WAIVER_END
from registry.lifecycle import quarantine, release, revoke
from registry.moving import Mover
from registry.quarantines import keep_beside, quarantines_to_end, sealed_change
from registry.queries import View
from registry.retention import RetentionPolicy
from registry.scrubbing import Fault, scrub
from registry.seen import Memory
from registry.service import Registry
from registry.signing import trusted
from registry.standing import Standing, StandingChange
from registry.statements import put_statement, statements_of
from registry.sweeping import plan_sweep, sweep
from registry.trust import KeyRevocation, Purpose
from registry.types import Engine, Result
from registry.waivers import ending_statement
from tests.factories.registry import CPU, H100, START, Workbench, with_registry


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    """An engine that passed."""
    found = bench.publish()
    bench.judge(found)
    return found


def rule(bench: Workbench, engine: Engine) -> str:
    return bench.registry.gate(engine.digest, CPU).rule


@pytest.fixture
def robbed(bench: Workbench, tmp_path: Path) -> Workbench:
    """A registry whose snapshot says that the revoker's key was stolen; its trust file does not."""
    trust = replace(bench.signers.trust, snapshot_required=True)
    reader = SnapshotReader(Memory(tmp_path / "seen.json"))
    keyid = bench.signers.revoker.public_key.keyid
    knows = trust.revoking(KeyRevocation(keyid, "stolen", START))
    registry: Registry = replace(bench.registry, trust=trust, snapshots=reader)
    reader.publish(
        registry.store, trust, lambda: registry.state_under(knows), timedelta(days=7),
        (bench.signers.keeper,),
    )  # fmt: skip
    return with_registry(bench, trust=trust, snapshots=reader)


def forge_release(bench: Workbench, engine: Engine) -> None:
    """Puts a release of all that holds an engine beside it, as who stole the key can."""
    store = bench.registry.store
    change = StandingChange(engine.digest, Standing.RELEASED, "fine", "a thief", START)
    with bench.registry.catalogue.read() as view:
        ends = quarantines_to_end(statements_of(store, engine), view.standing(engine.digest))
    envelope = sealed_change(engine, change, ends, bench.signers.revoker)
    keep_beside(store, engine, Standing.RELEASED, envelope)


def test_a_release_ends_nothing_where_the_snapshot_revokes_its_signer(
    robbed: Workbench, engine: Engine
) -> None:
    quarantine(robbed.registry, engine, "odd answers")
    forge_release(robbed, engine)
    scrub(robbed.registry)
    assert rule(robbed, engine) == "quarantined"
    robbed.publish()
    assert rule(robbed, engine) == "quarantined"


def behind(bench: Workbench) -> Workbench:
    """The same registry on a machine whose clock is some hours behind."""
    trust = replace(bench.registry.trust, clock=lambda: START + timedelta(minutes=10))
    return with_registry(bench, trust=trust)


def kept(bench: Workbench, tmp_path: Path) -> str:
    """Backs the catalogue up, and goes on an hour later."""
    url = bench.registry.catalogue.url
    backup(url, tmp_path / "kept")
    bench.clock.now += timedelta(hours=1)
    return url


def look_by_a_wrong_clock(bench: Workbench, engine: Engine) -> None:
    """Asks and scrubs where the clock is behind: neither passes over what it cannot tell."""
    slow = behind(bench)
    assert rule(slow, engine) == "restored-unchecked"
    with pytest.raises(NotYetError, match="has not come yet") as raised:
        slow.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert f"/statements/{engine.digest.value}/" in str(raised.value.where)  # who to ask, of what
    (found,) = scrub(slow.registry).wrong
    assert (found.fault, found.digest) == (Fault.REFUSED, engine.digest)
    assert f"{raised.value.where}: {raised.value.what}" in found.users[0]


def test_a_scrub_by_a_clock_that_is_behind_passes_over_no_fail(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    url = kept(bench, tmp_path)
    bench.judge(engine, Result.FAIL)
    restore(tmp_path / "kept", url, overwrite=True)
    look_by_a_wrong_clock(bench, engine)
    assert rule(bench, engine) == "verdict-failed"
    assert scrub(bench.registry).wrong == []
    assert rule(bench, engine) == "verdict-failed"


def test_a_scrub_by_a_clock_that_is_behind_passes_over_no_end_of_a_waiver(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    url = kept(bench, tmp_path)
    bench.end(waiver)
    restore(tmp_path / "kept", url, overwrite=True)
    look_by_a_wrong_clock(bench, engine)
    assert scrub(bench.registry).wrong == []
    assert rule(bench, engine) == "never-judged"


def year_ahead(bench: Workbench, engine: Engine) -> None:
    """Ends a waiver of the engine by a clock that is a year ahead."""
    waiver = bench.waive(engine, "never-judged")
    said = ending_statement(waiver, reason="fixed", ended_by="anna", at=START + timedelta(days=365))
    bench.registry.end_waiver(waiver.digest, sign(said, bench.signers.approver))


def test_the_end_of_a_waiver_by_a_clock_that_was_ahead_stops_no_other_waiver(
    bench: Workbench, engine: Engine
) -> None:
    bench.waive(engine, "incompatible")
    trust = replace(bench.registry.trust, clock=lambda: START + timedelta(days=366))
    year_ahead(with_registry(bench, trust=trust), engine)
    assert scrub(bench.registry).wrong == []
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    bench.waive(engine, "stale-snapshot")
    assert rule(bench, engine) == "qualified"


def test_a_revoked_key_stops_no_engine_by_a_statement_of_the_future(
    bench: Workbench, engine: Engine
) -> None:
    key = bench.signers.validator.public_key.keyid
    gone = KeyRevocation(key, "stolen", START, START + timedelta(hours=5))
    robbed = with_registry(bench, trust=bench.registry.trust.revoking(gone))
    now, bench.clock.now = bench.clock.now, START + timedelta(days=4000)
    envelope = bench.verdict_on(engine, Result.FAIL)[1]
    bench.clock.now = now
    put_statement(bench.registry.store, engine.digest, Purpose.VERDICT, envelope)
    assert scrub(robbed.registry).wrong == []
    robbed.publish()
    robbed.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert rule(robbed, engine) == "qualified"


def damage(bench: Workbench, engine: Engine, kind: str) -> None:
    """Cuts the last statement of a kind short that lies beside an engine."""
    store = bench.registry.store
    recorded = [one.envelope.encode() for one in bench.registry.verdicts(engine.digest)[1:]]
    for name in statements_of(store, engine).names(kind):
        if (data := store.get_document(name)) not in recorded:
            store.put_document(name, data[:-7], if_absent=False)


def let_go(bench: Workbench, engine: Engine) -> None:
    """Looks into it, and finds that it was nothing."""
    release(bench.registry, engine, "looked into it", bench.signers.revoker)
    scrub(bench.registry)


def test_a_fail_that_was_damaged_holds_a_restored_engine_until_it_is_released(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    url = kept(bench, tmp_path)
    bench.judge(engine, Result.FAIL)
    damage(bench, engine, Purpose.VERDICT)
    restore(tmp_path / "kept", url, overwrite=True)
    for _ in range(2):
        assert rule(bench, engine) == "quarantined"
        scrub(bench.registry)
    held = bench.registry.held(engine)
    assert held is not None
    assert "verdict-" in held.reason
    let_go(bench, engine)
    assert rule(bench, engine) == "qualified"
    restore(tmp_path / "kept", url, overwrite=True)
    assert rule(bench, engine) == "qualified"  # the release was signed


def test_what_holds_a_restored_engine_is_released_before_a_scrub_recorded_it(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    url = kept(bench, tmp_path)
    bench.judge(engine, Result.FAIL)
    damage(bench, engine, Purpose.VERDICT)
    restore(tmp_path / "kept", url, overwrite=True)
    with pytest.raises(GateClosedError) as raised:
        bench.registry.gate(engine.digest, CPU).require_open()
    assert f"engine release {engine.digest.short}" in str(raised.value)
    let_go(bench, engine)
    assert rule(bench, engine) == "qualified"
    bench.publish()
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert rule(bench, engine) == "qualified"


@pytest.mark.parametrize(
    ("waived", "passes_elsewhere"), [("never-judged", False), ("not-qualified-here", True)]
)
def test_a_damaged_end_of_a_waiver_holds_a_restored_engine(
    bench: Workbench, tmp_path: Path, waived: str, *, passes_elsewhere: bool
) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, waived)
    url = kept(bench, tmp_path)
    if passes_elsewhere:  # and is lost, too
        bench.judge(engine, environment=H100)
    bench.end(waiver)
    damage(bench, engine, WAIVER_END)
    restore(tmp_path / "kept", url, overwrite=True)
    assert rule(bench, engine) == "quarantined"
    scrub(bench.registry)
    assert rule(bench, engine) == "quarantined"


def test_a_fail_that_was_damaged_holds_an_engine_that_a_restored_waiver_would_open(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    bench.waive(engine, "never-judged")
    url = kept(bench, tmp_path)
    failed = bench.judge(engine, Result.FAIL)
    store = bench.registry.store
    (name,) = statements_of(store, engine).names(Purpose.VERDICT)
    store.put_document(name, failed.envelope.encode()[:-7], if_absent=False)
    restore(tmp_path / "kept", url, overwrite=True)
    assert rule(bench, engine) == "quarantined"
    let_go(bench, engine)
    assert rule(bench, engine) == "waived"


@pytest.fixture
def bundle(bench: Workbench, engine: Engine, tmp_path: Path) -> Path:
    """The engine as it was carried away when it had passed."""
    path = tmp_path / "bundle"
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), path)
    return path


@pytest.fixture
def doubted(bench: Workbench, engine: Engine) -> Workbench:
    """The registry after another validator failed the engine, whose key was revoked then."""
    validator = CryptoSigner.generate_ed25519()
    key = trusted(validator, Purpose.VERDICT)
    trust = bench.registry.trust.with_key(key)
    second = with_registry(bench, trust=trust)
    signed = replace(second, signers=replace(bench.signers, validator=validator))
    second.registry.record_verdict(engine.digest, *signed.verdict_on(engine, Result.FAIL))
    gone = trust.revoking(KeyRevocation(key.keyid, "a laptop was lost", START))
    return with_registry(bench, trust=gone)


def swept(bench: Workbench) -> None:
    policy = RetentionPolicy(grace=timedelta(days=-1), per_key=0)
    assert sweep(bench.registry, plan_sweep(bench.registry, policy)).engines


def test_no_older_pass_speaks_for_swept_bytes_that_somebody_failed_whose_key_was_revoked(
    doubted: Workbench, engine: Engine
) -> None:
    assert rule(doubted, engine) == "verdict-not-attested"
    swept(doubted)
    doubted.publish()
    assert rule(doubted, engine) == "quarantined"
    let_go(doubted, engine)
    doubted.judge(engine, more={"run": 2})
    assert rule(doubted, engine) == "qualified"
    scrub(doubted.registry)
    assert rule(doubted, engine) == "qualified"


def test_no_bundle_from_before_speaks_for_them_either(
    bundle: Path, doubted: Workbench, engine: Engine, tmp_path: Path
) -> None:
    swept(doubted)
    import_bundle(doubted.registry, bundle, tmp_path / "scratch")
    assert rule(doubted, engine) == "quarantined"
    let_go(doubted, engine)
    import_bundle(doubted.registry, bundle, tmp_path / "scratch")
    assert rule(doubted, engine) == "qualified"  # who released it has looked into it


def test_no_waiver_of_a_bundle_opens_where_its_end_cannot_be_believed(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), tmp_path / "bundle")
    bench.end(waiver)
    damage(bench, engine, WAIVER_END)
    swept(bench)
    import_bundle(bench.registry, tmp_path / "bundle", tmp_path / "scratch")
    assert rule(bench, engine) == "quarantined"
    let_go(bench, engine)
    import_bundle(bench.registry, tmp_path / "bundle", tmp_path / "scratch")
    assert rule(bench, engine) == "waived"


def test_what_cannot_be_believed_stops_nothing_that_was_judged_since(
    doubted: Workbench, engine: Engine
) -> None:
    """Beside a verdict that is recorded it says nothing: the catalogue was never set back."""
    swept(doubted)
    store = doubted.registry.store
    for name in statements_of(store, engine).names(Purpose.VERDICT):
        if doubted.signers.validator.public_key.keyid.encode() in store.get_document(name):
            store.remove_document(name)
    doubted.publish()
    assert rule(doubted, engine) == "never-judged"
    doubted.judge(engine, more={"run": 2})
    scrub(doubted.registry)
    doubted.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert rule(doubted, engine) == "qualified"


def test_what_holds_an_engine_is_not_taken_in_after_a_revocation_that_came_between(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    url = kept(bench, tmp_path)
    quarantine(bench.registry, engine, "odd answers", bench.signers.revoker)
    restore(tmp_path / "kept", url, overwrite=True)
    registry = bench.registry
    with registry.catalogue.read() as view:
        lost = find_lost(view, registry.store, engine, registry.trust, registry.clock())
    revoke(registry, engine, "wrong tokens", bench.signers.revoker)
    with registry.catalogue.edit() as draft:
        take_in(draft, lost)
    assert rule(bench, engine) == "revoked"


def test_a_channel_is_not_moved_by_a_look_from_before_the_catalogue_was_restored(
    bench: Workbench, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = kept(bench, tmp_path)
    bench.judge(engine, Result.FAIL)
    looks = []

    def look(mover: Mover, view: View, engine: Engine) -> Lost:
        looks.append(looked(mover, view, engine))
        if len(looks) == 1:
            restore(tmp_path / "kept", url, overwrite=True)
        return looks[-1]

    looked = Mover._lost
    monkeypatch.setattr(Mover, "_lost", look)
    with pytest.raises(GateClosedError, match="failed"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert not looks[0]
    assert bench.registry.channels() == []


def test_no_snapshot_of_a_restored_catalogue_vouches_for_a_waiver_that_may_have_ended(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    ended, stays = bench.waive(engine, "never-judged"), bench.waive(engine, "incompatible")
    url = kept(bench, tmp_path)
    assert bench.registry.state().waivers == {ended.digest, stays.digest}
    bench.end(ended)
    restore(tmp_path / "kept", url, overwrite=True)
    assert bench.registry.state().waivers == frozenset()
    scrub(bench.registry)
    assert bench.registry.state().waivers == {stays.digest}
