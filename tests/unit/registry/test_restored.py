"""A catalogue that was restored from an old backup is not believed until it was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry import layout
from registry.backups.backup import backup, restore
from registry.blobs.interface import BlobStore
from registry.digests import digest_bytes
from registry.errors import ConflictError, GateClosedError, StoreUnavailableError
from registry.lifecycle import revoke
from registry.retention import RetentionPolicy
from registry.scrubbing import scrub
from registry.statements import put_statement
from registry.sweeping import plan_sweep, sweep
from registry.trust import Purpose
from registry.types import Engine, Result
from tests.factories.registry import CPU, Workbench, with_registry


@dataclass
class Watched:
    """A store that counts how often it is asked what lies somewhere, or does not answer that."""

    store: BlobStore
    answers: bool = True
    listings: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        self.listings += 1
        if not self.answers:
            raise StoreUnavailableError("the store does not answer", where=self.store.url)
        return self.store.list_documents(prefix)


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    """An engine that passed, and is in a channel."""
    found = bench.publish()
    bench.judge(found)
    bench.registry.set_channel("prod", found.digest, CPU, actor="anna")
    return found


@pytest.fixture
def revoked(bench: Workbench, engine: Engine, tmp_path: Path) -> Engine:
    """The same, revoked after the backup that was restored."""
    url = bench.registry.catalogue.url
    backup(url, tmp_path / "kept")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    restore(tmp_path / "kept", url, overwrite=True)
    return engine


def rules(bench: Workbench, engine: Engine) -> set[str]:
    resolved = bench.registry.resolve("prod", engine.model_name, CPU)
    return {bench.registry.gate(engine.digest, CPU).rule, resolved.decision.rule}


def test_what_was_revoked_since_the_backup_stays_closed(bench: Workbench, revoked: Engine) -> None:
    assert rules(bench, revoked) == {"revoked"}
    assert bench.registry.held_engines() == {}  # asking changes nothing


def test_a_waiver_that_ended_since_the_backup_stays_ended(bench: Workbench, tmp_path: Path) -> None:
    engine, url = bench.publish(), bench.registry.catalogue.url
    waiver = bench.waive(engine, "never-judged")
    backup(url, tmp_path / "kept")
    bench.end(waiver)
    restore(tmp_path / "kept", url, overwrite=True)
    assert bench.registry.gate(engine.digest, CPU).rule == "never-judged"


@pytest.fixture
def url(bench: Workbench, tmp_path: Path, engine: Engine) -> str:
    """The catalogue, of which there is a backup from after the engine's pass."""
    assert bench.registry.verdicts(engine.digest)
    backup(bench.registry.catalogue.url, tmp_path / "kept")
    return bench.registry.catalogue.url


def test_a_fail_from_after_the_backup_still_closes_the_gate(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path
) -> None:
    bench.judge(engine, Result.FAIL)
    restore(tmp_path / "kept", url, overwrite=True)
    assert rules(bench, engine) == {"verdict-failed"}
    assert len(bench.registry.verdicts(engine.digest)) == 1  # asking changes nothing
    scrub(bench.registry)
    assert rules(bench, engine) == {"verdict-failed"}
    assert [one.result for one in bench.registry.verdicts(engine.digest)] == ["fail", "pass"]


def test_a_channel_is_not_moved_to_what_failed_after_the_backup(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path
) -> None:
    bench.judge(engine, Result.FAIL)
    restore(tmp_path / "kept", url, overwrite=True)
    with pytest.raises(GateClosedError, match="failed"):
        bench.registry.set_channel("next", engine.digest, CPU, actor="anna")


def test_a_fail_that_was_recorded_after_a_later_pass_still_closes_the_gate(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path
) -> None:
    late = bench.verdict_on(engine, Result.FAIL)
    bench.judge(engine, more={"run": 2})
    backup(url, tmp_path / "passed")
    bench.registry.record_verdict(engine.digest, *late)
    assert rules(bench, engine) == {"verdict-failed"}
    restore(tmp_path / "passed", url, overwrite=True)
    assert rules(bench, engine) == {"verdict-failed"}
    scrub(bench.registry)
    assert rules(bench, engine) == {"verdict-failed"}


@pytest.mark.parametrize("checked", [True, False])
def test_of_verdicts_from_after_the_backup_a_fail_counts_until_the_engine_is_judged_again(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path, *, checked: bool
) -> None:
    bench.judge(engine, Result.FAIL)
    bench.judge(engine, more={"run": 2})  # which of them was recorded first, nobody can tell
    restore(tmp_path / "kept", url, overwrite=True)
    assert rules(bench, engine) == {"verdict-failed"}
    if checked:
        scrub(bench.registry)
        assert rules(bench, engine) == {"verdict-failed"}
    bench.judge(engine, more={"run": 3})
    assert rules(bench, engine) == {"qualified"}
    found = [one.result for one in bench.registry.verdicts(engine.digest)]
    assert found == ["pass", "fail", "pass", "pass"]


def test_a_fail_of_the_moment_of_a_pass_still_closes_the_gate(
    bench: Workbench, tmp_path: Path
) -> None:
    engine, moment = bench.publish(), bench.clock.now
    passed = bench.verdict_on(engine)
    bench.clock.now = moment
    failed = bench.verdict_on(engine, Result.FAIL)
    bench.registry.record_verdict(engine.digest, *passed)
    backup(bench.registry.catalogue.url, tmp_path / "kept")
    bench.registry.record_verdict(engine.digest, *failed)
    restore(tmp_path / "kept", bench.registry.catalogue.url, overwrite=True)
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"


@pytest.mark.parametrize("moment", [timedelta(), timedelta(hours=1)])
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_lost_pass_that_is_handed_in_again_undoes_no_fail_that_came_after_it(
    bench: Workbench, tmp_path: Path, moment: timedelta, ending: bytes
) -> None:
    engine, url = bench.publish(), bench.registry.catalogue.url
    backup(url, tmp_path / "kept")
    began = bench.clock.now
    failed = bench.verdict_on(engine, Result.FAIL)
    bench.clock.now = began + moment
    document, envelope = bench.verdict_on(engine)
    bench.registry.record_verdict(engine.digest, document, envelope)
    bench.registry.record_verdict(engine.digest, *failed)
    restore(tmp_path / "kept", url, overwrite=True)
    with suppress(ConflictError):  # in another envelope it is refused
        bench.registry.record_verdict(engine.digest, document, envelope + ending)
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"
    scrub(bench.registry)
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"


@pytest.mark.parametrize("taken_in", [True, False])
def test_a_verdict_that_is_taken_in_before_its_publisher_is_done_keeps_its_summary(
    bench: Workbench, engine: Engine, *, taken_in: bool
) -> None:
    document, envelope = bench.verdict_on(engine)
    put_statement(bench.registry.store, engine.digest, Purpose.VERDICT, envelope)
    if taken_in:
        bench.judge(engine)
        assert len(bench.registry.verdicts(engine.digest)) == 3
    vsa = bench.summary_of(engine, document, envelope)
    assert bench.registry.record_verdict(engine.digest, document, envelope, vsa).vsa == vsa.decode()


def test_a_lost_verdict_comes_back_with_its_summary(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path
) -> None:
    said = [bench.judge(engine, result, more={"run": 2}).vsa for result in (Result.FAIL, *Result)]
    restore(tmp_path / "kept", url, overwrite=True)
    scrub(bench.registry)
    found = [one.vsa for one in bench.registry.verdicts(engine.digest)]
    assert {*said} < {*found}
    assert None not in found


def test_a_verdict_that_was_recorded_after_the_restoration_outweighs_an_older_one(
    bench: Workbench, engine: Engine, url: str, tmp_path: Path
) -> None:
    bench.judge(engine, Result.FAIL)
    restore(tmp_path / "kept", url, overwrite=True)
    bench.judge(engine, more={"run": 2})
    scrub(bench.registry)
    assert rules(bench, engine) == {"qualified"}


@pytest.mark.parametrize("role", ["builder", "simulated_validator"])
def test_what_no_validator_signed_is_no_lost_verdict(
    bench: Workbench, role: str, tmp_path: Path
) -> None:
    engine = bench.publish()
    signers = replace(bench.signers, validator=getattr(bench.signers, role))
    _, envelope = replace(bench, signers=signers).verdict_on(engine)
    name = layout.statement_name(engine.digest, Purpose.VERDICT, digest_bytes(envelope))
    bench.registry.store.put_document(name, envelope)
    backup(bench.registry.catalogue.url, tmp_path / "kept")
    restore(tmp_path / "kept", bench.registry.catalogue.url, overwrite=True)
    assert bench.registry.gate(engine.digest, CPU).rule == "never-judged"


def test_a_recorded_verdict_in_another_envelope_is_no_lost_one(
    bench: Workbench, engine: Engine
) -> None:
    failed = bench.judge(engine, Result.FAIL)
    copy = failed.envelope.encode() + b"\n"
    name = layout.statement_name(engine.digest, Purpose.VERDICT, digest_bytes(copy))
    bench.registry.store.put_document(name, copy)
    scrub(bench.registry)
    assert len(bench.registry.verdicts(engine.digest)) == 2


def test_while_the_store_does_not_answer_nothing_of_it_is_believed(
    bench: Workbench, revoked: Engine
) -> None:
    silent = with_registry(bench, store=Watched(bench.registry.store, answers=False))
    decision = silent.registry.gate(revoked.digest, CPU)
    assert (decision.rule, decision.is_open) == ("restored-unchecked", False)
    assert "the store does not answer" in "\n".join(decision.evidence)


def test_a_scrub_checks_the_catalogue_and_the_gate_asks_no_more(
    bench: Workbench, revoked: Engine
) -> None:
    assert scrub(bench.registry).revocations == 1
    watched = Watched(bench.registry.store)
    assert rules(with_registry(bench, store=watched), revoked) == {"revoked"}
    assert watched.listings == 0
    with bench.registry.catalogue.read() as view:
        entry = view.last_audit_entry()
    assert entry is not None
    assert (entry.action, entry.subject) == ("catalogue check", "restoration 1")


def test_a_catalogue_that_was_never_restored_costs_no_look_into_the_store(
    bench: Workbench, engine: Engine
) -> None:
    watched = Watched(bench.registry.store)
    assert rules(with_registry(bench, store=watched), engine) == {"qualified"}
    assert watched.listings == 0


def test_a_scrub_checks_no_catalogue_that_was_restored_while_it_ran(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    url = bench.registry.catalogue.url
    backup(url, tmp_path / "kept")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)

    class Restoring(Watched):
        def list_documents(self, prefix: str = "") -> Iterator[str]:
            if not self.listings:
                restore(tmp_path / "kept", url, overwrite=True)
            return super().list_documents(prefix)

    watched = Restoring(bench.registry.store)
    scrub(with_registry(bench, store=watched).registry)
    assert watched.listings
    assert rules(bench, engine) == {"revoked"}


def test_a_restored_catalogue_is_not_swept_before_it_was_checked(
    bench: Workbench, tmp_path: Path
) -> None:
    bench.publish()
    bench.publish(content=b"newer")  # of the same key: the first one is kept by nothing
    url = bench.registry.catalogue.url
    backup(url, tmp_path / "kept")
    restore(tmp_path / "kept", url, overwrite=True)
    later = replace(bench.registry, clock=lambda: bench.registry.clock() + timedelta(days=30))
    plan = plan_sweep(later, RetentionPolicy())
    with pytest.raises(ConflictError, match="was restored"):
        sweep(later, plan)
    scrub(later)
    assert len(sweep(later, plan).engines) == 1
