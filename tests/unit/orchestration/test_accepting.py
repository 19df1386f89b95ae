"""What a host lacks to build and judge engines, and what would be built there."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import Device, DriverState, NullNvml, Scan
from enginekeeper.orchestration.accepting import HostAcceptance, accept
from enginekeeper.settings import Settings
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.recipes import RecipeName
from enginekeeper.specs.releases import newest_stable_with_engines

NEWEST = toolchain_profiles()[newest_stable_with_engines().name]


class Gpus(NullNvml):
    """A host with GPUs of one product."""

    def __init__(self, product: str, capability: str, driver: str = "580.95.05") -> None:
        self._device = Device(0, "GPU-1", product, capability, 1 << 30, mig=False, vbios=None)
        self._driver = driver

    def driver(self) -> DriverState | None:
        return DriverState(self._driver, "13.0")

    def scan(self) -> Scan:
        return Scan((self._device,))


class Silent(NullNvml):
    def driver(self) -> DriverState | None:
        raise UnavailableError("the driver does not answer")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"HOME": str(tmp_path)})


def _lacking(found: HostAcceptance) -> dict[str, str]:
    return {one.subject: one.remedy for one in found.looked if one.remedy is not None}


def test_without_a_gpu_it_says_what_it_would_do_on_the_ones_named(settings: Settings) -> None:
    found = accept(NullNvml(), settings, NEWEST, ["a100-sxm-80gb", "b200"])

    assert "run it on a host" in _lacking(found)["driver"]
    refused = {(one.gpu, one.recipe): one.refused_by for one in found.trials}
    assert len(refused) == 2 * len(RecipeName)
    assert refused["a100-sxm-80gb", "fp8"] == "fp8-needs-8.9"
    assert refused["a100-sxm-80gb", "w8a16"] is None
    assert refused["b200", "w8a16"] == "int-weights-not-on-10.x"
    assert refused["b200", "nvfp4"] is None


def test_the_gpus_that_are_here_are_planned_for_and_not_those_named(settings: Settings) -> None:
    found = accept(Gpus("NVIDIA L4", "8.9"), settings, NEWEST, ["h100-sxm"])

    assert {one.gpu for one in found.trials} == {"l4"}
    assert not {"driver", "GPU"} & _lacking(found).keys()


def test_toolchains_that_are_not_here_are_told(settings: Settings) -> None:
    lacking = _lacking(accept(Gpus("NVIDIA L4", "8.9"), settings, NEWEST, ["l4"]))

    assert lacking["toolchain tensorrt-llm-1.2.1"].startswith("enginekeeper toolchain lock")
    assert lacking["toolchain modelopt"] == "enginekeeper toolchain sync modelopt"


def test_an_old_driver_and_a_gpu_without_kernels_are_told(settings: Settings) -> None:
    old = accept(Gpus("NVIDIA L4", "8.9", driver="535.86.10"), settings, NEWEST, ["l4"])
    early = accept(
        Gpus("NVIDIA B300 SXM6 AC", "10.3"),
        settings,
        toolchain_profiles()["tensorrt-llm-0.20.0"],
        ["l4"],
    )

    assert "update the driver" in _lacking(old)["driver"]
    assert "has kernels for" in _lacking(early)["GPU"]


def test_a_driver_that_does_not_answer_is_told_in_its_words(settings: Settings) -> None:
    found = accept(Silent(), settings, NEWEST, ["l4"])

    assert found.looked[0].found == "the driver does not answer"


def test_with_doubles_no_gpu_is_asked_for_and_everything_is_marked(settings: Settings) -> None:
    found = accept(NullNvml(), settings, toolchain_profiles()[f"simulated-{NEWEST.name}"], ["b200"])

    assert found.simulated
    assert not {"driver", "GPU"} & {one.subject for one in found.looked}
    assert f"toolchain simulated-{NEWEST.name}" not in _lacking(found)
    assert {one.gpu for one in found.trials} == {"b200"}


def test_a_stand_in_for_nvml_builds_nothing_real(settings: Settings) -> None:
    class StandIn(Gpus):
        @property
        def simulated(self) -> bool:
            return True

    found = accept(StandIn("NVIDIA L4", "8.9"), settings, NEWEST, ["l4"])

    assert "with doubles" in _lacking(found)["NVML"]


@pytest.mark.parametrize("name", ["inductor", "tensorrt-llm-1.3.0rc22"])
def test_a_toolchain_that_builds_no_engines_for_gpus_is_refused(
    name: str, settings: Settings
) -> None:
    with pytest.raises(InputError, match="builds no TensorRT engines"):
        accept(NullNvml(), settings, toolchain_profiles()[name], ["l4"])
