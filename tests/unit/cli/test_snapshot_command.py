"""`ek snapshot`: off by default, on when the trust file says so, and then everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from registry.signing import TRUST_FILE
from registry.snapshots import SNAPSHOT
from registry.types import Engine
from tests.factories.benches import Site, variants_of

Ek = Callable[..., Any]


@pytest.fixture
def engine(ek: Ek, site: Site, tmp_path: Path) -> Engine:
    """A proven engine, in a home whose trust file asks for snapshots."""
    (variant,) = variants_of(tmp_path)
    found = site.publish(variant)
    site.judge(found, variant)
    ek("key", "create", "keeper")
    ek("key", "trust", "keeper")
    path = site.bench.keys / TRUST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "snapshot": "required"}))
    return found


def test_the_gate_opens_under_a_fresh_snapshot_only(ek: Ek, engine: Engine) -> None:
    closed = ek("gate", engine.digest.short, "--json")
    assert (closed.code, closed.json["rule"]) == (ExitCode.FAIL, "stale-snapshot")
    made = ek("snapshot", "publish", "--json")
    assert (made.code, made.json["version"]) == (ExitCode.OK, 1)
    assert ek("gate", engine.digest.short).code == ExitCode.OK
    assert ek("snapshot", "verify").code == ExitCode.OK


def test_what_runs_is_only_reported(ek: Ek, site: Site, engine: Engine, tmp_path: Path) -> None:
    ek("snapshot", "publish")
    ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "here")
    site.bench.registry.store.remove_document(SNAPSHOT)
    said = ek("where")
    assert (said.code, "stale-snapshot" in said.out) == (ExitCode.OK, True)


def test_a_snapshot_that_was_set_back_is_refused(ek: Ek, site: Site, engine: Engine) -> None:
    ek("snapshot", "publish")
    store = Path(site.bench.settings.store_url.removeprefix("file://"))
    document = store / "snapshot" / "current.dsse.json"
    old = document.read_bytes()
    assert ek("snapshot", "publish", "--json").json["version"] == 2
    document.chmod(0o644)
    document.write_bytes(old)
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    assert ek("snapshot", "verify").code == ExitCode.INTEGRITY
    assert ek("snapshot", "show").code == ExitCode.INTEGRITY
    assert ek("snapshot", "publish", "--json").json["version"] == 3
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("engine")
def test_who_publishes_for_a_restored_catalogue_is_told_that_no_waiver_counts(
    ek: Ek, tmp_path: Path
) -> None:
    ek("db", "backup", tmp_path / "kept")
    assert "no waiver counts" not in ek("snapshot", "publish").err
    ek("db", "restore", tmp_path / "kept", "--yes")
    assert "no waiver counts" in ek("snapshot", "publish").err
    ek("store", "scrub")
    assert "no waiver counts" not in ek("snapshot", "publish").err


def test_what_changed_since_is_told(ek: Ek, engine: Engine) -> None:
    ek("snapshot", "publish")
    ek("channel", "set", "prod", engine.digest.short)
    said = ek("snapshot", "verify", "--json")
    assert said.code == ExitCode.DRIFT
    (row,) = said.json["differences"]
    assert row == {"what": "channel prod of tiny on cpu", "signed": "-",
                   "found": engine.digest.short}  # fmt: skip
    ek("snapshot", "publish")
    assert engine.digest.short in ek("snapshot", "show").out


def test_a_revoked_engine_that_was_swept_is_no_alarm(ek: Ek, site: Site, engine: Engine) -> None:
    ek("engine", "revoke", engine.digest.short, "--reason", "wrong tokens", "--yes")
    ek("snapshot", "publish")
    assert ek("snapshot", "verify").code == ExitCode.OK
    with site.bench.registry.catalogue.edit() as draft:
        draft.remove_engine(engine.digest)
    said = ek("snapshot", "verify", "--json")
    assert (said.code, said.json["set_back"]) == (ExitCode.OK, False)


def test_a_catalogue_without_a_signed_revocation_stays_an_alarm(
    ek: Ek, site: Site, engine: Engine
) -> None:
    ek("engine", "revoke", engine.digest.short, "--reason", "wrong tokens", "--yes")
    ek("snapshot", "publish")
    site.tamper("delete from standings")
    assert ek("snapshot", "verify").code == ExitCode.INTEGRITY
    assert ek("snapshot", "publish").code == ExitCode.OK
    assert ek("snapshot", "verify").code == ExitCode.INTEGRITY
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL


def test_a_time_that_was_seen_by_mistake_can_be_forgotten(
    ek: Ek, site: Site, engine: Engine
) -> None:
    ek("snapshot", "publish")
    memory = site.bench.snapshots.memory
    memory.remember_time(datetime(2999, 1, 1, tzinfo=UTC))
    closed = ek("gate", engine.digest.short, "--json")
    assert (closed.code, closed.json["rule"]) == (ExitCode.FAIL, "clock-set-back")
    assert ek("snapshot", "publish").code == ExitCode.INTEGRITY
    assert "2999" in ek("snapshot", "forget-time", "--dry-run").err
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    assert ek("snapshot", "forget-time", "--json").json["time"].startswith("2999")
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("site")
def test_a_home_without_a_snapshot_says_so(ek: Ek) -> None:
    assert ek("snapshot", "show").code == ExitCode.NOT_FOUND
    assert ek("snapshot", "verify").code == ExitCode.INTEGRITY
    assert ek("snapshot", "publish").code == ExitCode.NOT_FOUND
