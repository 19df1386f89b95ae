"""What lies beside an engine and cannot be believed here and now opens no gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.backups.backup import backup, restore
from registry.errors import NotYetError
from registry.freshness import SnapshotReader
from registry.lifecycle import quarantine
from registry.quarantines import keep_beside, quarantines_to_end, sealed_change
from registry.scrubbing import Fault, scrub
from registry.seen import Memory
from registry.service import Registry
from registry.standing import Standing, StandingChange
from registry.statements import statements_of
from registry.trust import KeyRevocation
from registry.types import Engine, Result
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
    with pytest.raises(NotYetError, match="has not come yet"):
        slow.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    (found,) = scrub(slow.registry).wrong
    assert (found.fault, found.digest) == (Fault.REFUSED, engine.digest)
    assert "has not come yet" in found.users[0]


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
