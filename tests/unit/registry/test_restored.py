"""A catalogue that was restored from an old backup is not believed until it was checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.backups.backup import backup, restore
from registry.blobs.interface import BlobStore
from registry.errors import StoreUnavailableError
from registry.lifecycle import revoke
from registry.scrubbing import scrub
from registry.types import Engine
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
