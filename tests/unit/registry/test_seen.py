"""What a machine has seen never goes back, and a clock behind it opens nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import digest_bytes
from registry.errors import IntegrityError, InvalidRecordError
from registry.evidence_gate import EvidenceGate
from registry.exchange import evidence_of
from registry.freshness import SnapshotReader
from registry.lifecycle import revoke
from registry.seen import LastSeen, Memory
from registry.snapshots import SNAPSHOT, RegistryState, Snapshot
from registry.trust import KeyRevocation
from registry.types import Engine
from tests.factories.registry import CPU, START, Workbench, with_registry

HOUR, WEEK = timedelta(hours=1), timedelta(days=7)
STORE = "file:///store"


def at(bench: Workbench, by: timedelta) -> Workbench:
    """Returns the registry as it is read by a clock that long after the start."""
    return with_registry(bench, trust=replace(bench.registry.trust, clock=lambda: START + by))


def publish(bench: Workbench) -> Snapshot:
    registry = bench.registry
    assert registry.snapshots is not None
    return registry.snapshots.publish(
        registry.store, registry.trust, registry.state, WEEK, (bench.signers.keeper,)
    )


@pytest.fixture
def strict(bench: Workbench, tmp_path: Path) -> Workbench:
    """A registry whose trust asks for snapshots, an hour after the start."""
    trust = replace(bench.signers.trust, snapshot_required=True)
    reader = SnapshotReader(Memory(tmp_path / "seen.json"))
    return at(with_registry(bench, trust=trust, snapshots=reader), HOUR)


@pytest.fixture
def engine(strict: Workbench) -> Engine:
    """One that passed, under a snapshot of a week."""
    found = strict.publish()
    strict.judge(found)
    publish(strict)
    return found


def rule(bench: Workbench, engine: Engine) -> str:
    return bench.registry.gate(engine.digest, CPU).rule


def offline(bench: Workbench, engine: Engine, kept: bytes) -> str:
    registry = bench.registry
    gate = EvidenceGate(
        registry.trust, registry.compatibility, snapshot=kept, reader=registry.snapshots,
        store=registry.store.url,
    )  # fmt: skip
    return gate.decide(evidence_of(registry, engine), CPU).rule


def memory_of(bench: Workbench) -> Memory:
    assert bench.registry.snapshots is not None
    return bench.registry.snapshots.memory


def test_a_clock_that_is_set_back_makes_no_expired_snapshot_fresh(
    strict: Workbench, engine: Engine
) -> None:
    assert rule(at(strict, WEEK + 2 * HOUR), engine) == "stale-snapshot"
    decision = at(strict, 2 * HOUR).registry.gate(engine.digest, CPU)
    assert (decision.rule, decision.is_open) == ("clock-set-back", False)
    assert "forget-time" in "\n".join(decision.evidence)


def test_nor_the_one_that_was_kept_for_a_silent_registry(strict: Workbench, engine: Engine) -> None:
    kept = strict.registry.store.get_document(SNAPSHOT)
    assert offline(strict, engine, kept) == "qualified"
    assert offline(at(strict, WEEK + 2 * HOUR), engine, kept) == "stale-snapshot"
    assert offline(at(strict, 2 * HOUR), engine, kept) == "clock-set-back"


@pytest.mark.parametrize(
    ("minutes", "expected"), [(0, "qualified"), (5, "qualified"), (6, "clock-set-back")]
)
def test_clocks_may_be_set_a_little(
    strict: Workbench, engine: Engine, minutes: int, expected: str
) -> None:
    assert rule(at(strict, 3 * HOUR), engine) == "qualified"
    assert rule(at(strict, 3 * HOUR - timedelta(minutes=minutes)), engine) == expected


def test_no_waiver_opens_by_a_clock_that_was_set_back(strict: Workbench, engine: Engine) -> None:
    strict.waive(engine, "stale-snapshot", expires_at=START + 2 * WEEK)
    assert rule(at(strict, WEEK + 2 * HOUR), engine) == "waived"
    assert rule(at(strict, 3 * WEEK), engine) == "stale-snapshot"
    assert rule(at(strict, WEEK + 2 * HOUR), engine) == "clock-set-back"


def test_a_revoked_engine_is_said_to_be_revoked_by_any_clock(
    strict: Workbench, engine: Engine
) -> None:
    revoke(strict.registry, engine, "leaks", strict.signers.revoker)
    publish(strict)
    assert rule(at(strict, WEEK), engine) == "revoked"
    assert rule(strict, engine) == "revoked"


@pytest.mark.usefixtures("engine")
def test_a_keeper_whose_clock_was_set_back_signs_no_snapshot(strict: Workbench) -> None:
    publish(at(strict, 3 * HOUR))
    with pytest.raises(IntegrityError, match="clock of this machine was set back"):
        publish(at(strict, 2 * HOUR))


def test_a_time_that_was_forgotten_closes_nothing(strict: Workbench, engine: Engine) -> None:
    assert rule(at(strict, 900 * WEEK), engine) == "stale-snapshot"  # the clock was ahead
    assert rule(strict, engine) == "clock-set-back"
    memory_of(strict).forget_time()
    assert rule(strict, engine) == "qualified"


def test_what_a_keeper_says_of_the_time_is_remembered(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "seen.json")
    memory.remember(STORE, snapshot(1, START + HOUR))
    assert memory.time() == START + HOUR
    memory.remember(STORE, snapshot(2, START))
    assert memory.time() == START + HOUR


def snapshot(number: int, issued_at: datetime = START) -> Snapshot:
    digest = digest_bytes(bytes([number]))
    return Snapshot(number, issued_at, issued_at + WEEK, RegistryState(), digest)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_what_was_seen_never_goes_back(versions: list[int]) -> None:
    with TemporaryDirectory() as scratch:
        memory = Memory(Path(scratch, "seen", "snapshots.json"))
        for number in versions:
            memory.remember(STORE, snapshot(number))
        seen = memory.seen(STORE)
    assert seen == LastSeen(max(versions), str(digest_bytes(bytes([max(versions)]))))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_the_latest_time_is_known_to_the_minute(seconds: list[int]) -> None:
    with TemporaryDirectory() as scratch:
        memory = Memory(Path(scratch, "seen.json"))
        for one in seconds:
            memory.remember_time(START + timedelta(seconds=one))
        found = memory.time()
    assert found is not None
    latest = START + timedelta(seconds=max(seconds))
    assert latest - timedelta(minutes=1) < found <= latest


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"schema":1}', '{"schema":1,"stores":{"a":{}}}',
     '{"schema":1,"stores":{},"time":5}', '{"schema":1,"stores":{},"time":"2026-12-24"}'],
)  # fmt: skip
def test_a_memory_that_cannot_be_read_is_no_fresh_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "seen.json").write_text(text)
    with pytest.raises(InvalidRecordError):
        Memory(tmp_path / "seen.json").seen(STORE)


def test_a_memory_from_before_times_were_kept_is_read(strict: Workbench, engine: Engine) -> None:
    path = memory_of(strict).path
    document = json.loads(path.read_text())
    del document["time"]
    path.write_text(json.dumps(document))
    assert rule(strict, engine) == "qualified"
    assert memory_of(strict).time() == START + HOUR


@pytest.mark.parametrize("later", ["old", "new"])
def test_what_was_seen_under_two_names_is_what_either_saw(tmp_path: Path, later: str) -> None:
    memory, (mine, theirs) = (
        Memory(tmp_path / "seen.json"),
        (digest_bytes(b"a"), digest_bytes(b"b")),
    )
    other = "new" if later == "old" else "old"
    for name, number, gone in ((other, 1, mine), (later, 2, theirs)):
        state = RegistryState(revoked_engines=frozenset({gone}))
        memory.remember(name, replace(snapshot(number), state=state))
    memory.carry_over("old", "new")
    seen, revoked = memory.seen("new"), memory.revoked("new")
    assert seen is not None
    assert revoked is not None
    assert (seen.version, revoked.revoked_engines) == (2, frozenset({mine, theirs}))


def test_the_version_that_a_thief_chose_is_not_taken_from_the_earlier_name_again(
    tmp_path: Path,
) -> None:
    memory = Memory(tmp_path / "seen.json")
    memory.remember("old", replace(snapshot(200), signers=frozenset({"thief"})))
    memory.carry_over("old", "new")
    state = RegistryState(key_revocations=(KeyRevocation("thief", "stolen", START),))
    for number in (1, 2):
        memory.remember("new", replace(snapshot(number), state=state, signers=frozenset({"k"})))
        memory.carry_over("old", "new")
    assert memory.seen("new") == LastSeen(2, str(snapshot(2).digest), frozenset({"k"}))
    memory.remember("new", replace(snapshot(1), state=state, signers=frozenset({"k"})))  # replayed
    assert memory.seen("new") == LastSeen(2, str(snapshot(2).digest), frozenset({"k"}))
