"""Where an engine is judged: on this CPU, or on the simulated GPU that it was built for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.interface import Device, DriverState, NullNvml, Scan
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.environments import environment_of
from enginekeeper.orchestration.keys import engine_key
from enginekeeper.orchestration.tools import Maker
from registry.environments import GpuEnvironment
from registry.keys import EngineKey
from tests.factories.benches import TOOLS, Site, variants_of
from tests.factories.gpu_engines import H100, gpu_key
from tests.factories.registry import cpu_key

DOUBLE = "simulated-tensorrt-llm-1.2.1"


def _key(site: Site, directory: Path, target: str) -> EngineKey:
    more = f"toolchain: {DOUBLE}\ntargets: [{target}]\n"
    (variant,) = variants_of(directory, more=more)
    tools = replace(TOOLS, builders={DOUBLE: Maker("lock", "code")})
    return engine_key(variant, site.source.digest, site.bench.host, tools)


def test_a_simulated_engine_meets_its_own_product_under_the_simulated_driver(
    site: Site, tmp_path: Path
) -> None:
    key = _key(site, tmp_path, "b200")

    assert key.hard["builder"] == "simulated"
    assert environment_of(site.bench, key) == GpuEnvironment(
        "NVIDIA B200", "10.0", "13", "13.0", "580.95.05"
    )


def test_the_driver_that_the_spec_names_is_the_one_it_meets(site: Site, tmp_path: Path) -> None:
    key = _key(site, tmp_path, '{gpu: h100-sxm, driver: "590.44.01"}')

    found = environment_of(site.bench, key)

    assert isinstance(found, GpuEnvironment)
    assert (found.driver, found.cuda_driver) == ("590.44.01", "13.1")


def test_a_driver_nobody_knows_the_cuda_of_is_no_environment(site: Site, tmp_path: Path) -> None:
    key = _key(site, tmp_path, '{gpu: h100-sxm, driver: "999.1"}')

    with pytest.raises(InputError, match="which CUDA this driver offers"):
        environment_of(site.bench, key)


def test_a_real_engine_never_meets_a_simulated_gpu(site: Site) -> None:
    assert environment_of(site.bench, gpu_key("w")) == site.bench.environment


def test_a_simulated_engine_of_no_gpu_is_refused_by_name(site: Site) -> None:
    with pytest.raises(InputError, match="names no GPU") as caught:
        environment_of(site.bench, cpu_key(builder="simulated"))
    assert "gpu_product" in str(caught.value.actual)


def test_a_real_engine_meets_the_gpu_of_its_product_under_the_driver_that_answers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    vars(site.bench)["gpus"] = (GpuKind("NVIDIA L4", "8.9"), GpuKind(H100.product, "9.0"))
    monkeypatch.setattr(Bench, "driver", lambda _: DriverState("580.95.05", "13.0"))

    assert environment_of(site.bench, gpu_key("w")) == H100


def test_a_stand_in_for_nvml_shows_no_gpu_on_which_a_real_engine_is_judged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", StandIn)

    assert site.bench.gpus == ()


def test_no_verdict_is_about_a_gpu_of_which_nobody_can_tell_how_it_is_split(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", Untold)

    assert site.bench.gpus == (GpuKind("NVIDIA L4", "8.9"),)
    assert environment_of(site.bench, gpu_key("w")) == site.bench.environment


class StandIn(NullNvml):
    """An NVML of one H100 that says of itself that it is none."""

    @property
    def simulated(self) -> bool:
        return True

    def driver(self) -> DriverState | None:
        return DriverState("580.95.05", "13.0")

    def scan(self) -> Scan:
        return Scan((Device(0, "GPU-1", H100.product, "9.0", 1 << 30, mig=False, vbios=None),))


class Untold(StandIn):
    """An H100 whose MIG mode cannot be read, beside one that is whole and an L4."""

    @property
    def simulated(self) -> bool:
        return False

    def scan(self) -> Scan:
        untold = Device(0, "GPU-1", H100.product, "9.0", 1 << 30, mig=None, vbios=None)
        whole = Device(1, "GPU-2", H100.product, "9.0", 1 << 30, mig=False, vbios=None)
        other = Device(2, "GPU-3", "NVIDIA L4", "8.9", 1 << 30, mig=False, vbios=None)
        return Scan((untold, whole, other))
