"""Toolchains of doubles: installed without a download, named so that nobody takes them for real."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from enginekeeper.building.simulated.parser import RELEASES
from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.specs import profiles
from enginekeeper.specs.profiles import BuilderKind, double_of, toolchain_profiles
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains import catalogue
from enginekeeper.toolchains.catalogue import DOUBLED, TOOLCHAINS, WITHOUT_ENGINES, find_toolchain
from enginekeeper.toolchains.installation import State, state_of
from enginekeeper.toolchains.locking import write_lock
from enginekeeper.toolchains.sync import ensure

NAME = "simulated-tensorrt-llm-1.2.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"HOME": str(tmp_path)})


def test_every_stable_release_with_engines_has_a_double_and_each_without() -> None:
    building = [
        one.version for one in releases().values() if one.builds_engines and not one.is_prerelease
    ]
    alone = [one.version for one in releases().values() if not one.builds_engines]

    assert building == list(RELEASES)
    assert alone == list(WITHOUT_ENGINES)
    assert list(DOUBLED) == building + alone
    assert profiles.SIMULATED == catalogue.SIMULATED
    doubles = {name for name, one in toolchain_profiles().items() if one.simulated}
    assert doubles == {one.name for one in TOOLCHAINS.values() if one.simulated}
    assert double_of("tensorrt-llm-1.3.0rc20") is None


def test_a_double_has_the_profile_of_its_release_and_another_maker() -> None:
    double, real = (toolchain_profiles()[name] for name in (NAME, "tensorrt-llm-1.2.1"))

    assert (double.builder, double.release, double.cuda) == (real.builder, real.release, real.cuda)
    assert (double.maker, real.maker) == (BuilderKind.SIMULATED, BuilderKind.TENSORRT_LLM)


def test_it_is_installed_at_once_and_mended_where_it_is_another_installations(
    settings: Settings,
) -> None:
    assert state_of(find_toolchain(NAME), settings) is State.ABSENT
    tool = ensure(NAME, settings).with_name("trtllm-build")
    written = tool.read_text()
    tool.write_text("#!/bin/sh\necho of another installation\n")

    ensure(NAME, settings)

    assert tool.read_text() == written
    assert state_of(find_toolchain(NAME), settings) is State.READY


def test_its_programs_are_the_doubles_of_its_release(settings: Settings) -> None:
    folder = ensure(NAME, settings).parent

    said = subprocess.run(
        [folder / "trtllm-build", "--gpus_per_node=8"], capture_output=True, text=True, check=False
    )

    assert said.returncode == 2
    assert "TensorRT LLM version: 1.2.1" in said.stdout
    assert "unrecognized arguments: --gpus_per_node=8" in said.stderr


def test_a_release_with_the_pytorch_backend_alone_has_a_driver_and_no_tools(
    settings: Settings,
) -> None:
    folder = ensure("simulated-tensorrt-llm-1.3.0rc22", settings).parent

    assert {one.name for one in folder.iterdir()} == {"python", "nvidia-smi"}


def test_there_is_nothing_to_lock(settings: Settings) -> None:
    with pytest.raises(InputError, match="nothing to resolve"):
        write_lock(find_toolchain(NAME), settings)
