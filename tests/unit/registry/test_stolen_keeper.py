"""A keeper's key that was stolen: its snapshots stop counting, the registry's do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from registry.freshness import SnapshotReader
from registry.seen import Memory
from registry.service import Registry
from registry.signing import trusted
from registry.snapshots import SNAPSHOT, RegistryState, sealed
from registry.trust import KeyRevocation, Purpose
from tests.factories.registry import CPU, START, Workbench, with_registry

SECOND = CryptoSigner.generate_ed25519()
WEEK = timedelta(days=7)
AGES = timedelta(days=36500)


@pytest.fixture
def stolen(bench: Workbench, tmp_path: Path) -> Workbench:
    """A node that asks for snapshots, trusts two keepers, and has not heard of any theft."""
    trust = bench.signers.trust.with_key(trusted(SECOND, Purpose.SNAPSHOT))
    trust = replace(trust, snapshot_required=True, clock=lambda: START + timedelta(hours=1))
    return with_registry(
        bench, trust=trust, snapshots=SnapshotReader(Memory(tmp_path / "node.json"))
    )


def publish(bench: Workbench, tmp_path: Path, since: datetime | None = None) -> None:
    """Publishes from the operators' machine, which knows what was stolen."""
    keyid = bench.signers.keeper.public_key.keyid
    trust = bench.registry.trust.revoking(KeyRevocation(keyid, "stolen", START, since))
    registry: Registry = replace(bench.registry, trust=trust)
    reader = SnapshotReader(Memory(tmp_path / "operators.json"))
    reader.publish(registry.store, trust, registry.state, WEEK, (SECOND,), accept_loss=True)


def forge(bench: Workbench, version: int, at: datetime = START) -> None:
    forged = sealed(RegistryState(), version, at, at + AGES, bench.signers.keeper)
    bench.registry.store.put_document(SNAPSHOT, forged, if_absent=False)


@pytest.mark.parametrize("since", [None, START + timedelta(minutes=30)])
def test_a_thief_signs_nothing_once_his_key_was_seen_revoked_whatever_its_date(
    stolen: Workbench, tmp_path: Path, since: datetime | None
) -> None:
    engine = stolen.publish()
    stolen.judge(engine)
    publish(stolen, tmp_path, since)
    assert stolen.registry.gate(engine.digest, CPU).rule == "qualified"
    forge(stolen, 10**9)
    assert stolen.registry.gate(engine.digest, CPU).rule == "stale-snapshot"


def test_a_version_that_a_thief_chose_does_not_keep_the_registry_out(
    stolen: Workbench, tmp_path: Path
) -> None:
    engine = stolen.publish()
    stolen.judge(engine)
    forge(stolen, 10**9)
    assert stolen.registry.gate(engine.digest, CPU).rule == "qualified"  # not known to be stolen
    publish(stolen, tmp_path)
    assert stolen.registry.gate(engine.digest, CPU).rule == "qualified"
    fresh = stolen.registry.freshness()
    assert fresh is not None
    assert fresh.snapshot is not None
    assert fresh.snapshot.version == 1


def test_a_kept_snapshot_of_a_thief_opens_nothing(stolen: Workbench, tmp_path: Path) -> None:
    publish(stolen, tmp_path)
    reader, store = stolen.registry.snapshots, stolen.registry.store
    assert reader is not None
    reader.snapshot(store, stolen.registry.trust)
    forged = sealed(RegistryState(), 1, START, START + AGES, stolen.signers.keeper)
    assert reader.kept(forged, store.url, stolen.registry.trust).snapshot is None
