"""`ek engine export`, `ek engine verify` and `ek bundle`: from home to home without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from registry.bundles import unpack
from registry.signing import TRUST_FILE
from registry.types import Engine
from tests.factories.benches import Site, variants_of

Ek = Callable[..., Any]


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    (variant,) = variants_of(tmp_path)
    found = site.publish(variant)
    site.judge(found, variant)
    return found


def move(monkeypatch: pytest.MonkeyPatch, site: Site, home: Path) -> None:
    """Goes to another home that has the trust file and nothing else."""
    (home / "keys").mkdir(parents=True, mode=0o700)
    shutil.copy(site.bench.keys / TRUST_FILE, home / "keys")
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(home))


def test_an_export_is_verified_where_there_is_no_catalogue(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert ek("engine", "export", engine.digest.short, "--to", out).code == ExitCode.OK
    move(monkeypatch, site, tmp_path / "other")
    said = ek("engine", "verify", out)
    assert (said.code, engine.digest.short in said.out) == (ExitCode.OK, True)
    assert not (tmp_path / "other" / "catalogue.sqlite").exists()
    (out / "engine" / "graph.pt2").write_bytes(b"other")
    bad = ek("engine", "verify", out, "--json")
    assert bad.code == ExitCode.INTEGRITY
    assert [one["what"] for one in bad.json if not one["ok"]] == ["bytes"]


def test_a_recorded_engine_is_verified_by_its_id(ek: Ek, engine: Engine) -> None:
    assert ek("engine", "verify", engine.digest.short).code == ExitCode.OK
    assert ek("engine", "verify", "0000beef").code == ExitCode.NOT_FOUND


def test_a_home_that_trusts_nobody_verifies_nothing(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    ek("engine", "export", engine.digest.short, "--to", out)
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(tmp_path / "other"))
    assert ek("engine", "verify", out).code == ExitCode.INTEGRITY
    trust = site.bench.keys / TRUST_FILE
    assert ek("engine", "verify", out, "--trust", trust).code == ExitCode.OK


@pytest.mark.usefixtures("engine")
def test_a_directory_without_evidence_says_how_to_get_some(ek: Ek, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    said = ek("engine", "verify", tmp_path / "plain")
    assert (said.code, "engine export" in said.err) == (ExitCode.INVALID_INPUT, True)


def test_a_bundle_goes_from_home_to_home(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "engine.bundle"
    digest = ek("bundle", "export", engine.digest.short, file, "--json").json["sha256"]
    move(monkeypatch, site, tmp_path / "other")
    for _ in range(2):
        said = ek("bundle", "import", file, "--sha256", digest, "--json")
        assert (said.code, said.json["verdicts"]) == (ExitCode.OK, 1)
    assert ek("gate", engine.digest.short).code == ExitCode.OK
    assert ek("bundle", "unpack", file, "--to", tmp_path / "out").code == ExitCode.OK
    assert ek("engine", "verify", tmp_path / "out").code == ExitCode.OK


def test_a_quarantined_engine_is_not_handed_on(ek: Ek, engine: Engine, tmp_path: Path) -> None:
    ek("engine", "quarantine", engine.digest.short, "--reason", "odd", "--yes")
    said = ek("bundle", "export", engine.digest.short, tmp_path / "engine.bundle")
    assert (said.code, (tmp_path / "engine.bundle").exists()) == (ExitCode.FAIL, False)
    ek("engine", "release", engine.digest.short, "--reason", "was not")
    assert ek("bundle", "export", engine.digest.short, tmp_path / "b").code == ExitCode.OK


def test_an_engine_that_was_quarantined_after_the_restored_backup_is_not_handed_on(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    ek("db", "backup", tmp_path / "kept")
    ek("engine", "quarantine", engine.digest.short, "--reason", "odd", "--yes")
    assert ek("db", "restore", tmp_path / "kept", "--yes").code == ExitCode.OK
    file = tmp_path / "engine.bundle"
    said = ek("bundle", "export", engine.digest.short, file)
    assert (said.code, file.exists()) == (ExitCode.FAIL, False)


def test_a_revoked_engine_is_handed_on_with_its_revocation(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    ek("db", "backup", tmp_path / "kept")
    assert ek("engine", "revoke", engine.digest.short, "--reason", "leaks", "--yes").code == 0
    assert ek("bundle", "export", engine.digest.short, tmp_path / "recorded").code == ExitCode.OK
    assert ek("db", "restore", tmp_path / "kept", "--yes").code == ExitCode.OK
    assert ek("bundle", "export", engine.digest.short, tmp_path / "lost").code == ExitCode.OK
    for name in ("recorded", "lost"):
        found = unpack(tmp_path / name, site.bench.trust, tmp_path / f"{name}.out")
        assert len(found.revocations) == 1


def test_a_bundle_that_was_changed_brings_nothing(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "engine.bundle"
    ek("bundle", "export", engine.digest.short, file)
    move(monkeypatch, site, tmp_path / "other")
    assert ek("bundle", "import", file, "--sha256", "0" * 64).code == ExitCode.INTEGRITY
    file.write_bytes(file.read_bytes().replace(b"graph", b"ghost"))
    assert ek("bundle", "import", file).code in (ExitCode.INTEGRITY, ExitCode.INVALID_INPUT)
    assert ek("engine", "list", "--json").json == []
    assert ek("bundle", "import", tmp_path / "none").code == ExitCode.NOT_FOUND
