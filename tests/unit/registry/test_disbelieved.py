"""What lies beside an engine and cannot be believed here and now opens no gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.freshness import SnapshotReader
from registry.lifecycle import quarantine
from registry.quarantines import keep_beside, quarantines_to_end, sealed_change
from registry.scrubbing import scrub
from registry.seen import Memory
from registry.service import Registry
from registry.standing import Standing, StandingChange
from registry.statements import statements_of
from registry.trust import KeyRevocation
from registry.types import Engine
from tests.factories.registry import CPU, START, Workbench, with_registry


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
