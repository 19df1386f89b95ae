"""What was quarantined stays so when the catalogue is lost; so does what a revoker released."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from registry import layout
from registry.backups.backup import backup, restore
from registry.beside import find_lost, take_in
from registry.blobs.interface import MAX_DOCUMENT, BlobStore
from registry.catalogue import Catalogue
from registry.errors import ConflictError, GateClosedError, StoreUnavailableError
from registry.lifecycle import quarantine, release, revoke
from registry.models import StandingRow
from registry.quarantines import keep_beside
from registry.records import Draft
from registry.scrubbing import Fault, scrub
from registry.service import Registry
from registry.standing import Standing, StandingChange
from registry.types import Engine, Result
from tests.factories.registry import CPU, Workbench, with_registry


class Lost:
    """A catalogue that is set back by `ek db restore` to what it was when it was kept."""

    def __init__(self, bench: Workbench, kept: Path) -> None:
        self.bench, self.kept = bench, kept
        backup(bench.registry.catalogue.url, kept)

    def restore(self) -> None:
        restore(self.kept, self.bench.registry.catalogue.url, overwrite=True)


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    found = bench.publish()
    bench.judge(found)
    return found


@pytest.fixture
def lost(bench: Workbench, engine: Engine, tmp_path: Path) -> Lost:
    """A backup from after the engine passed, and before anything held it."""
    assert bench.registry.held(engine) is None
    return Lost(bench, tmp_path / "kept")


def rule(bench: Workbench, engine: Engine) -> str:
    return bench.registry.gate(engine.digest, CPU).rule


def hold(bench: Workbench, engine: Engine, *, signed: bool = True) -> StandingChange:
    signers = (bench.signers.revoker,) if signed else ()
    return quarantine(bench.registry, engine, "odd answers", *signers)


def let_go(bench: Workbench, engine: Engine, *, signed: bool = True) -> StandingChange:
    signers = (bench.signers.revoker,) if signed else ()
    return release(bench.registry, engine, "it was the network", *signers)


@pytest.mark.parametrize("signed", [True, False])
def test_a_quarantine_from_after_the_backup_still_closes_the_gate(
    bench: Workbench, engine: Engine, lost: Lost, *, signed: bool
) -> None:
    hold(bench, engine, signed=signed)
    lost.restore()
    assert rule(bench, engine) == "quarantined"
    assert bench.registry.held(engine) is None  # asking changes nothing
    with pytest.raises(GateClosedError, match="quarantined"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    scrub(bench.registry)
    assert rule(bench, engine) == "quarantined"
    held = bench.registry.held(engine)
    assert held is not None
    assert ("odd answers" in held.reason) is signed


def test_it_is_taken_in_once_and_can_be_released(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    hold(bench, engine)
    lost.restore()
    for _ in range(2):
        scrub(bench.registry)
    with bench.registry.catalogue.read() as view:
        assert len(view.standing(engine.digest)) == 1
    let_go(bench, engine)
    scrub(bench.registry)
    assert rule(bench, engine) == "qualified"


def test_what_was_released_by_a_revoker_stays_so(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    hold(bench, engine)
    let_go(bench, engine)
    lost.restore()
    assert rule(bench, engine) == "qualified"
    scrub(bench.registry)
    assert rule(bench, engine) == "qualified"


def test_a_release_from_after_the_backup_ends_the_quarantine_in_it(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    hold(bench, engine)
    lost = Lost(bench, tmp_path / "kept")
    let_go(bench, engine)
    lost.restore()
    assert rule(bench, engine) == "qualified"
    scrub(bench.registry)
    assert bench.registry.held(engine) is None


@pytest.mark.parametrize("role", [None, "builder", "simulated_revoker"])
def test_a_release_that_no_revoker_signed_opens_no_restored_catalogue(
    bench: Workbench, engine: Engine, lost: Lost, role: str | None
) -> None:
    hold(bench, engine)
    signers = () if role is None else (getattr(bench.signers, role),)
    release(bench.registry, engine, "it was the network", *signers)
    assert rule(bench, engine) == "qualified"
    lost.restore()
    assert rule(bench, engine) == "quarantined"


def test_a_release_ends_no_quarantine_that_came_after_it(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    hold(bench, engine)
    let_go(bench, engine)
    hold(bench, engine)
    lost.restore()
    assert rule(bench, engine) == "quarantined"
    scrub(bench.registry)
    assert rule(bench, engine) == "quarantined"


def test_nothing_follows_a_revocation(bench: Workbench, engine: Engine, lost: Lost) -> None:
    hold(bench, engine)
    revoke(bench.registry, engine, "leaks", bench.signers.revoker)
    lost.restore()
    assert rule(bench, engine) == "revoked"
    scrub(bench.registry)
    assert rule(bench, engine) == "revoked"
    scrub(bench.registry)
    with bench.registry.catalogue.read() as view:
        assert [one.kind for one in view.standing(engine.digest)] == [Standing.REVOKED]


def test_what_lies_beside_an_engine_holds_it_whoever_wrote_it(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    keep_beside(bench.registry.store, engine, Standing.QUARANTINED, b"{}")
    lost.restore()
    assert rule(bench, engine) == "quarantined"


def test_a_recorded_quarantine_in_another_envelope_is_no_new_one(
    bench: Workbench, engine: Engine
) -> None:
    held = hold(bench, engine)
    let_go(bench, engine, signed=False)
    assert held.envelope is not None
    copy = held.envelope.encode() + b"\n"
    keep_beside(bench.registry.store, engine, Standing.QUARANTINED, copy)
    scrub(bench.registry)
    assert rule(bench, engine) == "qualified"


class Silent:
    """A store that takes nothing."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def put_document(self, name: str, data: bytes, **_: object) -> None:
        raise StoreUnavailableError("the store does not answer", where=f"{name}, {len(data)} bytes")


def test_a_quarantine_closes_the_gate_while_the_store_is_silent_and_is_kept_later(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    silent = with_registry(bench, store=Silent(bench.registry.store))
    with pytest.raises(StoreUnavailableError):
        hold(silent, engine)
    assert rule(bench, engine) == "quarantined"
    hold(bench, engine)
    lost.restore()
    assert rule(bench, engine) == "quarantined"


class Down:
    """A catalogue that can be read, and takes nothing."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __getattr__(self, name: str) -> object:
        return getattr(self.catalogue, name)

    def edit(self, **_: object) -> AbstractContextManager[Draft]:
        raise StoreUnavailableError("the catalogue does not answer", transient=True)


@pytest.mark.parametrize("signed", [True, False])
def test_a_release_that_died_before_its_row_says_whether_it_stands(
    bench: Workbench, engine: Engine, *, signed: bool
) -> None:
    hold(bench, engine)
    down = with_registry(bench, catalogue=Down(bench.registry.catalogue))
    with pytest.raises(StoreUnavailableError, match="does not answer") as raised:
        let_go(down, engine, signed=signed)
    assert ("release stands" in raised.value.what, raised.value.transient) == (signed, True)
    assert rule(bench, engine) == "quarantined"


@pytest.mark.parametrize("signed", [True, False])
def test_a_quarantine_outlives_a_release_that_died_before_it(
    bench: Workbench, engine: Engine, lost: Lost, *, signed: bool
) -> None:
    hold(bench, engine)
    down = with_registry(bench, catalogue=Down(bench.registry.catalogue))
    with pytest.raises(StoreUnavailableError):
        let_go(down, engine)
    hold(bench, engine, signed=signed)
    hold(bench, engine, signed=signed)
    with bench.registry.catalogue.read() as view:
        assert len(view.standing(engine.digest)) == 2
    scrub(bench.registry)
    assert rule(bench, engine) == "quarantined"
    lost.restore()
    assert rule(bench, engine) == "quarantined"
    scrub(bench.registry)
    let_go(bench, engine)
    assert rule(bench, engine) == "qualified"


def test_what_two_take_in_at_once_is_recorded_once(
    bench: Workbench, engine: Engine, lost: Lost
) -> None:
    hold(bench, engine)
    bench.judge(engine, Result.FAIL)
    lost.restore()
    registry = bench.registry
    with registry.catalogue.read() as view:
        found = find_lost(view, registry.store, engine, registry.trust, registry.clock())
    for _ in range(2):
        with registry.catalogue.edit() as draft:
            take_in(draft, found)
    with registry.catalogue.read() as view:
        assert len(view.standing(engine.digest)) == 1
        assert len(view.verdicts(engine.digest)) == 2


def test_a_quarantine_of_an_earlier_version_is_released_as_ever(
    bench: Workbench, engine: Engine
) -> None:
    hold(bench, engine)
    with bench.registry.catalogue.edit() as draft:
        draft._session.execute(update(StandingRow).values(envelope=None))
    assert hold(bench, engine).envelope is None
    let_go(bench, engine)
    assert rule(bench, engine) == "qualified"


class Between:
    """A catalogue of which somebody else changes something between two units of work."""

    def __init__(self, catalogue: Catalogue, change: Callable[[], object]) -> None:
        self.catalogue, self.change, self.edits = catalogue, change, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.catalogue, name)

    def edit(self, **options: Any) -> AbstractContextManager[Draft]:  # noqa: ANN401 - handed on
        self.edits += 1
        if self.edits == 2:
            self.change()
        return self.catalogue.edit(**options)


def test_a_quarantine_that_comes_between_keeps_a_channel_from_moving(
    bench: Workbench, engine: Engine, tmp_path: Path
) -> None:
    hold(bench, engine)
    kept = Lost(bench, tmp_path / "held")
    let_go(bench, engine)
    kept.restore()  # the release is lost, and lies beside the engine
    between = Between(bench.registry.catalogue, lambda: hold(bench, engine))
    with pytest.raises(GateClosedError):
        with_registry(bench, catalogue=between).registry.set_channel(
            "prod", engine.digest, CPU, actor="anna"
        )
    assert between.edits == 2
    assert bench.registry.channels() == []


JUNK = {
    "empty": b"",
    "text": b"junk",
    "NUL": b"ab\x00cd",
    "not UTF-8": b"\xff\xfe junk",
    "UTF-16": "{}".encode("utf-16"),
    "too long": b"0" * (MAX_DOCUMENT + 1),
}


@pytest.fixture(params=JUNK)
def junk(request: pytest.FixtureRequest, bench: Workbench, engine: Engine) -> str:
    """A document of any bytes under the name of a quarantine."""
    name = layout.statement_name(engine.digest, layout.QUARANTINE, engine.digest)
    path = bench.directory / "store" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(JUNK[request.param])  # longer than any that the store writes, one of them
    return name


def test_junk_holds_an_engine_by_its_name_until_it_is_released(
    bench: Workbench, engine: Engine, junk: str
) -> None:
    with pytest.raises(GateClosedError, match="quarantined"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    held = bench.registry.held(engine)
    assert held is not None
    assert held.envelope is None  # no catalogue has to hold bytes of all kinds
    assert junk in held.reason
    let_go(bench, engine, signed=False)
    assert scrub(bench.registry).wrong == []
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")


def test_a_signed_release_of_junk_counts_in_a_catalogue_that_lost_it(
    bench: Workbench, engine: Engine, junk: str, tmp_path: Path
) -> None:
    before = Lost(bench, tmp_path / "before")
    assert scrub(bench.registry).wrong == []
    held = Lost(bench, tmp_path / "held")
    let_go(bench, engine)
    for kept in (before, held):
        kept.restore()
        assert (junk, rule(bench, engine)) == (junk, "qualified")
        scrub(bench.registry)
        assert rule(bench, engine) == "qualified"


def test_what_cannot_be_taken_in_of_one_engine_stops_no_other(
    bench: Workbench, engine: Engine, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bench.publish(content=b"other")
    lost = Lost(bench, lost.kept.with_name("both"))
    revoke(bench.registry, other, "leaks", bench.signers.revoker)
    hold(bench, engine)
    lost.restore()
    take_in = Registry.take_in_revocations

    def refuses_one(registry: Registry, it: Engine) -> int:
        if it == engine:
            raise ConflictError("somebody was first")
        return take_in(registry, it)

    monkeypatch.setattr(Registry, "take_in_revocations", refuses_one)
    report = scrub(bench.registry)
    assert [(one.fault, one.digest) for one in report.wrong] == [(Fault.REFUSED, engine.digest)]
    assert report.revocations == 1
    with bench.registry.catalogue.read() as view:
        assert view.unchecked()  # the gate goes on looking, and nothing is swept
    assert rule(bench, engine) == "quarantined"
