"""`toolchain sync` and `toolchain lock`: arguments, and what is kept or removed; no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enginekeeper.cli.toolchain import toolchain
from enginekeeper.errors import MissingError
from enginekeeper.settings import Settings
from enginekeeper.toolchains import locking, prerequisites, sync
from enginekeeper.toolchains.catalogue import Toolchain, find_toolchain, lock_of
from enginekeeper.toolchains.installation import RECORD, installation_of


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEKEEPER_CACHE", str(tmp_path / "cache"))
    return Settings.from_environment()


def _installed(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / RECORD).write_text("{}")
    return path


@pytest.fixture
def present(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installation of the present lock; nothing is left to be installed."""
    one = find_toolchain("inductor")
    place = _installed(installation_of(one, lock_of(one, settings), settings).path)
    (place / "bin").mkdir()
    (place / "bin" / "python").touch()
    monkeypatch.setattr(prerequisites, "check_prerequisites", lambda *_: None)
    return place


@pytest.fixture
def old(present: Path) -> Path:
    """An installation from another lock."""
    return _installed(present.with_name("inductor-0123456789ab"))


def test_sync_keeps_installations_from_other_locks(present: Path, old: Path) -> None:
    result = CliRunner().invoke(toolchain, ["sync", "inductor"], catch_exceptions=False)

    assert result.exit_code == 0
    assert present.is_dir()
    assert old.is_dir()


def test_pruning_removes_them_and_says_so(present: Path, old: Path) -> None:
    other = _installed(present.with_name("modelopt-0123456789ab"))

    result = CliRunner().invoke(toolchain, ["sync", "inductor", "--prune"], catch_exceptions=False)

    assert f"inductor: removed {old}" in result.stderr
    assert not old.exists()
    assert (present / RECORD).is_file()
    assert other.is_dir()  # of a toolchain that was not named


def test_nothing_is_pruned_when_the_installation_fails(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, _: Settings) -> Path:
        raise MissingError(f"{name} cannot be installed")

    monkeypatch.setattr(sync, "ensure", fail)

    result = CliRunner().invoke(toolchain, ["sync", "inductor", "--prune"])

    assert isinstance(result.exception, MissingError)
    assert old.is_dir()


def test_lock_prints_where_the_lock_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Toolchain, Settings]] = []

    def write(one: Toolchain, given: Settings) -> Path:
        seen.append((one, given))
        return Path("a.lock")

    monkeypatch.setattr(locking, "write_lock", write)

    result = CliRunner().invoke(toolchain, ["lock", "vllm"], catch_exceptions=False)

    assert result.stdout == "a.lock\n"
    assert seen == [(find_toolchain("vllm"), settings)]


@pytest.mark.usefixtures("settings")
def test_an_unknown_toolchain_cannot_be_locked() -> None:
    result = CliRunner().invoke(toolchain, ["lock", "inducter"])

    assert isinstance(result.exception, MissingError)
    assert "did you mean inductor" in str(result.exception)


def test_sync_says_as_json_where_a_toolchain_is_and_what_went(present: Path, old: Path) -> None:
    arguments = ["sync", "inductor", "--prune", "--json"]
    result = CliRunner().invoke(toolchain, arguments, catch_exceptions=False)
    (told,) = json.loads(result.stdout)
    assert told["toolchain"] == "inductor"
    assert told["python"].startswith(str(present))
    assert told["removed"] == [str(old)]


@pytest.mark.parametrize("arguments", [["lock"], ["lock", "a", "b"], ["sync", "--prune"]])
def test_wrong_usage_is_said_by_click(arguments: list[str]) -> None:
    assert CliRunner().invoke(toolchain, arguments).exit_code == 2
