"""The keys of timing caches: all of what they depend on is known, or there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from enginekeeper.building.interface import BuiltEngine, TimingFiles
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.errors import InputError
from enginekeeper.fleet.interface import NullNvml
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.pipeline import compilation_of
from enginekeeper.orchestration.timing import (
    BuildTiming,
    TimingRun,
    locked_key,
    started_from,
    timing_of,
)
from enginekeeper.settings import Settings
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.variants import Variant
from enginekeeper.toolchains.containers.description import Container, Runtime, write_container
from enginekeeper.toolchains.containers.kubernetes import Cluster
from registry.digests import digest_bytes
from registry.timing.types import TimingKey
from tests.factories.benches import variants_of

H100 = gpu_products()["h100-sxm"]
CUDA_13 = "nvidia-cuda-runtime==13.0.96 \\\n    --hash=sha256:00\n"
CUDA_12 = "nvidia-cuda-runtime-cu12==12.9.79\n"


def _lock(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tensorrt-llm-1.2.1.lock"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "tensorrt", "cuda"),
    [
        (f"tensorrt==10.14.1.48 \\\n    --hash=sha256:00\n{CUDA_13}", "10.14.1.48", "13.0"),
        (f"tensorrt-cu12==10.11.0.33\ntensorrt==10.11.0.33\n{CUDA_12}", "10.11.0.33", "12.9"),
    ],
)
def test_a_lock_file_says_what_a_cache_depends_on(
    text: str, tensorrt: str, cuda: str, tmp_path: Path
) -> None:
    key = locked_key(H100, _lock(tmp_path, text), "13.0")

    assert key == TimingKey("NVIDIA H100 80GB HBM3", "9.0", tensorrt, cuda, "13.0")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (CUDA_13, "tensorrt"),
        (f"tensorrt-llm==1.2.1\n{CUDA_13}", "tensorrt"),
        (f"tensorrt==10.14.1\n{CUDA_13}", "tensorrt"),
        ("tensorrt==10.14.1.48\n", "cuda_runtime"),
        (f"tensorrt==10.14.1.48\n{CUDA_13}{CUDA_12}", "cuda_runtime"),
        (f"tensorrt==10.14.1.48\ntensorrt-cu13==10.14.1.49\n{CUDA_13}", "tensorrt"),
    ],
)
def test_one_that_does_not_say_it_all_gives_no_key(text: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"does not say which {missing}"):
        locked_key(H100, _lock(tmp_path, text), "13.0")


def built_in(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Returns a bench whose engines for H100 are built in containers."""
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEKEEPER_CACHE", str(tmp_path / "cache"))
    settings = Settings.from_environment()
    cluster = Cluster("builds", "shared", tmp_path) if runtime is Runtime.KUBERNETES else None
    image = "nvcr.io/nvidia/tensorrt-llm/release@sha256:" + "a" * 64
    write_container("tensorrt-llm-1.2.1", Container(runtime, image, cluster=cluster), settings)
    return cast("Bench", SimpleNamespace(settings=settings))


@pytest.mark.parametrize("runtime", [Runtime.KUBERNETES, Runtime.DOCKER])
def test_the_memory_of_this_host_is_not_asked_for_what_a_cluster_builds(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = built_in(runtime, tmp_path, monkeypatch)
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", NullNvml)
    more = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n"
    (variant,) = variants_of(tmp_path, "[fp8]", more)

    builder = compilation_of(bench, variant).builder

    assert isinstance(builder, TensorrtLlmBuilder)
    assert (builder.host_memory is None) is (runtime is Runtime.KUBERNETES)


@pytest.mark.parametrize("runtime", [Runtime.KUBERNETES, Runtime.DOCKER])
def test_what_a_cluster_builds_has_no_timing_cache_for_its_driver_is_not_known_here(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = built_in(runtime, tmp_path, monkeypatch)
    asked: list[str] = []

    def open_nvml() -> NullNvml:
        asked.append("the driver of this host")
        return NullNvml()

    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", open_nvml)
    profile = toolchain_profiles()["tensorrt-llm-1.2.1"]
    variant = cast("Variant", SimpleNamespace(identifier="m.fp8.tp1.h100-sxm", profile=profile))

    assert timing_of(bench, variant, H100) is None
    assert bool(asked) is (runtime is Runtime.DOCKER)


def test_a_product_says_what_its_build_started_with() -> None:
    digest = digest_bytes(b"cache")

    assert started_from({"timing": {"started_from": str(digest)}}) == digest
    assert started_from({"timing": {"started_from": None}}) is None
    assert started_from({}) is None


def _built(tensorrt: str | None) -> BuiltEngine:
    report = {"tensorrt": tensorrt, "timing_cache": {"ranks": 2, "fresh": 1, "not_taken": 0}}
    return BuiltEngine(Path("engine"), 1.0, {}, (), {}, report)


def _run(tmp_path: Path) -> TimingRun:
    key = TimingKey(H100.product, "9.0", "10.14.1.48", "13.0", "13.0")
    nobody = cast("Bench", None)  # nothing is signed or published
    timing = BuildTiming(nobody, key, "variant", "tensorrt-llm-1.2.1", simulated=False)
    end = tmp_path / "timing" / "end" / "model.cache"
    end.parent.mkdir(parents=True)
    return TimingRun(timing, TimingFiles(None, end), None)


@pytest.mark.parametrize("tensorrt", ["10.14.1.49", None])
def test_what_a_build_of_another_tensorrt_measured_is_not_kept(
    tensorrt: str | None, tmp_path: Path
) -> None:
    run = _run(tmp_path)
    run.files.end.write_bytes(b"measured")

    said = run.end(_built(tensorrt))

    assert (said["kept"], said["found"]) == (None, 1)
    assert not (tmp_path / "timing").exists()


def test_a_tool_that_leaves_no_cache_is_no_fault(tmp_path: Path) -> None:
    assert _run(tmp_path).end(_built("10.14.1.48"))["kept"] is None
