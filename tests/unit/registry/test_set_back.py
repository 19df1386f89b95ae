"""Stores and catalogues that were set back: what a snapshot revoked stays so when one is signed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry import layout
from registry.backups.backup import backup, restore
from registry.errors import IntegrityError, InvalidRecordError
from registry.freshness import SnapshotReader
from registry.lifecycle import revoke
from registry.seen import Memory
from registry.snapshots import SNAPSHOT, RegistryState, Snapshot, sealed
from registry.trust import KeyRevocation
from registry.types import Engine
from tests.factories.registry import CPU, START, Workbench, with_registry

WEEK = timedelta(days=7)


@dataclass
class Keeper:
    """A machine that publishes snapshots of one registry, and asks its gate."""

    bench: Workbench
    memory: Path

    def at(self, memory: Path) -> Keeper:
        """Returns another machine at the same registry."""
        return Keeper(with_registry(self.bench, snapshots=SnapshotReader(Memory(memory))), memory)

    def revoking_key(self, revocation: KeyRevocation) -> Keeper:
        """Returns the same machine, whose trust file revokes a key."""
        trust = self.bench.registry.trust.revoking(revocation)
        return Keeper(with_registry(self.bench, trust=trust), self.memory)

    def publish(self, *, accept_loss: bool = False) -> Snapshot:
        registry, signers = self.bench.registry, (self.bench.signers.keeper,)
        assert registry.snapshots is not None
        return registry.snapshots.publish(
            registry.store, registry.trust, registry.state, WEEK, signers, accept_loss=accept_loss
        )

    def rule(self, engine: Engine) -> str:
        return self.bench.registry.gate(engine.digest, CPU).rule

    def put_snapshot(self, data: bytes | None) -> None:
        store = self.bench.registry.store
        if data is None:
            store.remove_document(SNAPSHOT)
        else:
            store.put_document(SNAPSHOT, data, if_absent=False)


@pytest.fixture
def keeper(bench: Workbench, tmp_path: Path) -> Keeper:
    trust = replace(bench.registry.trust, snapshot_required=True)
    return Keeper(with_registry(bench, trust=trust), tmp_path).at(tmp_path / "seen.json")


@pytest.fixture
def victim(keeper: Keeper, tmp_path: Path) -> Engine:
    """An engine that was revoked, in a registry that was then set back to before that."""
    bench, registry = keeper.bench, keeper.bench.registry
    engine, url = bench.publish(), registry.catalogue.url
    bench.judge(engine)
    keeper.publish()
    old = registry.store.get_document(SNAPSHOT)
    (tmp_path / "old").write_bytes(old)
    backup(url, tmp_path / "kept")
    revoke(registry, engine, "wrong tokens", bench.signers.revoker)
    keeper.publish()
    assert keeper.rule(engine) == "revoked"
    restore(tmp_path / "kept", url, overwrite=True)
    for name in list(registry.store.list_documents(layout.statement_folder(engine.digest))):
        if "/revocation-" in name:
            registry.store.remove_document(name)
    keeper.put_snapshot(old)
    return engine


def lying_there(keeper: Keeper, what: str) -> bytes | None:
    """Returns what whoever set the store back left in place of its snapshot."""
    signers = keeper.bench.signers
    return {
        "the one before": keeper.bench.registry.store.get_document(SNAPSHOT),
        "another of its version": sealed(
            RegistryState(), 2, START, START + WEEK + WEEK, signers.keeper
        ),
        "a stranger's": sealed(RegistryState(), 9, START, START + WEEK, signers.builder),
        "none": None,
    }[what]


LEFT = ("the one before", "another of its version", "a stranger's", "none")


@pytest.mark.parametrize("left", LEFT)
def test_what_was_revoked_stays_so_when_a_set_back_registry_is_published(
    keeper: Keeper, victim: Engine, left: str
) -> None:
    keeper.put_snapshot(lying_there(keeper, left))
    made = keeper.publish()
    assert (made.version, made.state.revoked_engines) == (3, frozenset({victim.digest}))
    assert keeper.rule(victim) == "revoked"


def test_who_has_seen_it_revoked_does_not_believe_a_later_snapshot_without_it(
    keeper: Keeper, victim: Engine, tmp_path: Path
) -> None:
    newcomer = keeper.at(tmp_path / "new machine.json")
    newcomer.publish()
    newcomer.publish()
    assert newcomer.publish().state.revoked_engines == frozenset()
    assert keeper.rule(victim) == "revoked"


def test_break_glass_does_not_open_for_what_was_seen_revoked(
    keeper: Keeper, victim: Engine
) -> None:
    keeper.bench.waive(victim, "stale-snapshot")
    keeper.put_snapshot(None)
    assert keeper.rule(victim) == "revoked"


def numbers_only(memory: Path) -> None:
    """Makes the file that an earlier version wrote."""
    document = json.loads(memory.read_text())
    for entry in document["stores"].values():
        del entry["revoked"]
    memory.write_text(json.dumps(document))


@pytest.mark.parametrize("left", LEFT)
def test_what_is_not_known_to_be_revoked_is_not_signed_away(
    keeper: Keeper, victim: Engine, left: str
) -> None:
    numbers_only(keeper.memory)
    keeper.put_snapshot(lying_there(keeper, left))
    with pytest.raises(IntegrityError, match="what it revoked is not known here"):
        keeper.publish()
    assert keeper.rule(victim) == "stale-snapshot"
    assert keeper.publish(accept_loss=True).version == 3


@pytest.mark.usefixtures("victim")
def test_a_new_machine_does_not_sign_over_what_nobody_trusted_signed(
    keeper: Keeper, tmp_path: Path
) -> None:
    keeper.put_snapshot(lying_there(keeper, "a stranger's"))
    with pytest.raises(IntegrityError, match="what it revoked is not known here"):
        keeper.at(tmp_path / "new machine.json").publish()


def test_a_memory_of_numbers_learns_what_was_revoked_by_looking(keeper: Keeper) -> None:
    bench = keeper.bench
    engine = bench.publish()
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    keeper.publish()
    numbers_only(keeper.memory)
    assert keeper.rule(engine) == "revoked"
    kept = Memory(keeper.memory).revoked(bench.registry.store.origin)
    assert kept == RegistryState(revoked_engines=frozenset({engine.digest}))


def test_a_revocation_of_a_key_is_carried_on_by_who_has_not_heard_of_it(
    keeper: Keeper, tmp_path: Path
) -> None:
    keyid = keeper.bench.signers.validator.public_key.keyid
    gone = KeyRevocation(keyid, "stolen", START)
    engine = keeper.bench.publish()
    keeper.bench.judge(engine)
    keeper.revoking_key(gone).publish()
    made = keeper.at(tmp_path / "another.json").publish()
    assert made.state.key_revocations == (gone,)
    assert keeper.publish().state.key_revocations == (gone,)  # once, not once for each machine
    assert keeper.rule(engine) == "verdict-not-attested"


@pytest.mark.parametrize("revoked", [None, 5, {}, {"revokedEngines": ["x"]}])
def test_a_memory_that_does_not_say_what_was_revoked_is_damaged(
    keeper: Keeper, revoked: object
) -> None:
    keeper.publish()
    document = json.loads(keeper.memory.read_text())
    for entry in document["stores"].values():
        entry["revoked"] = revoked
    keeper.memory.write_text(json.dumps(document))
    with pytest.raises(InvalidRecordError, match="cannot be read"):
        Memory(keeper.memory).revoked("file:///elsewhere")
