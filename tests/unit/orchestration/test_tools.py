"""What makes engines is read from locks and code, and is what really makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.inductor import InductorBuilder
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.building.trtllm_pytorch import TrtllmPytorchBuilder
from enginekeeper.errors import InputError
from enginekeeper.fleet.interface import DriverState, NullNvml
from enginekeeper.orchestration import stages, workshop
from enginekeeper.orchestration.keys import engine_key
from enginekeeper.orchestration.stages import Checkpoint, Compilation
from enginekeeper.orchestration.tools import (
    COMPILE_STEPS,
    locked_version,
    read_tools,
    reference_toolchain,
)
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.toolchains.catalogue import DOUBLED
from enginekeeper.toolchains.runner import StepOutcome, StepRun
from registry.digests import digest_bytes
from tests.factories.benches import Site, variants_of
from tests.factories.registry import WEIGHTS

GPU = "tensorrt-llm-1.2.1"


@pytest.fixture
def products(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What made a checkpoint and an engine, as the work store recorded it."""

    def run_step(run: StepRun, **_options: object) -> StepOutcome:
        output = Path(run.job["output"])
        output.mkdir()
        (output / "config.json").write_text("{}")
        return StepOutcome({"engine": {}, "graphs": []}, {}, 1.0, run.directory / "step.log")

    monkeypatch.setattr(workshop, "run_step", run_step)
    shop, text = site.bench.shop, tmp_path / "text.jsonl"
    text.write_text("{}")
    checkpoint = Checkpoint(tmp_path, digest_bytes(b"checkpoint"))
    compilation = Compilation(InductorBuilder(tmp_path / "graphs"), {})
    made = (
        stages.quantize(shop, site.source, "v", {"calibration": {"path": str(text)}}),
        stages.compile_engine(shop, checkpoint, "v", compilation),
    )
    quantized, compiled = (one.record["inputs"]["made_by"] for one in made)
    return {"quantizer": quantized, "builder": compiled}


def test_the_key_names_what_makes_checkpoint_and_engine(
    site: Site, tmp_path: Path, products: Mapping[str, Any]
) -> None:
    (variant,) = variants_of(tmp_path)
    tools = read_tools(site.bench.shop, site.bench.settings)
    hard = engine_key(variant, WEIGHTS, site.bench.host, tools).hard
    for who in ("quantizer", "builder"):
        assert hard[f"{who}_lock"] == products[who]["lock"]
        assert hard[f"{who}_code"] == products[who]["step"]


def test_a_gpu_toolchain_counts_from_its_lock_on(site: Site) -> None:
    bench = site.bench
    doubles = {f"simulated-tensorrt-llm-{version}" for version in DOUBLED}
    assert set(read_tools(bench.shop, bench.settings).builders) == {
        "inductor",
        "vllm-cpu",
        *doubles,
    }
    locks = bench.settings.home / "locks"
    locks.mkdir()
    (locks / f"{GPU}.lock").write_text("tensorrt_llm==1.2.1")
    assert read_tools(bench.shop, bench.settings).builders[GPU].lock == str(bench.shop.lock_of(GPU))


def test_a_version_is_read_from_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.write_text("torchvision==9\ntorch==2.13.0+cpu ; python_version > '3'\nnumpy==2.1 \\\n")
    assert locked_version(lock, "torch") == "2.13.0+cpu"
    assert locked_version(lock, "numpy") == "2.1"
    with pytest.raises(InputError, match="does not pin scipy"):
        locked_version(lock, "scipy")


class OneGpu(NullNvml):
    def driver(self) -> DriverState | None:
        return DriverState("580.95.05", "13.0")


@pytest.mark.parametrize(
    ("gpu", "resolved", "expected"),
    [
        (True, True, "vllm"),
        (True, False, "vllm-cpu"),
        (False, True, "vllm-cpu"),
        (False, False, "vllm-cpu"),
    ],
)
def test_the_reference_is_scored_on_a_gpu_where_there_is_one_and_its_toolchain(
    site: Site, monkeypatch: pytest.MonkeyPatch, expected: str, *, gpu: bool, resolved: bool
) -> None:
    settings = site.bench.settings
    if resolved:
        (settings.home / "locks").mkdir()
        (settings.home / "locks" / "vllm.lock").write_text("vllm==0.32.0\n")
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", OneGpu if gpu else NullNvml)
    assert reference_toolchain(settings) == expected


def test_doubles_build_by_the_step_of_the_real_builder() -> None:
    assert COMPILE_STEPS[BuilderKind.SIMULATED] == TensorrtLlmBuilder.compile_step
    assert COMPILE_STEPS[BuilderKind.TENSORRT_LLM] == TensorrtLlmBuilder.compile_step
    assert COMPILE_STEPS[BuilderKind.SIMULATED_PYTORCH] == TrtllmPytorchBuilder.compile_step
    assert COMPILE_STEPS[BuilderKind.TRTLLM_PYTORCH] == TrtllmPytorchBuilder.compile_step


def test_an_engine_of_a_double_is_bound_to_the_doubles_code(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, name = site.bench, f"simulated-{GPU}"
    before = read_tools(bench.shop, bench.settings)
    monkeypatch.setattr(workshop, "code_digest", lambda *paths: f"other {paths}")
    after = read_tools(bench.shop, bench.settings)
    assert before.builders[name].code != after.builders[name].code
    assert before.builders["inductor"] == after.builders["inductor"]
    assert before.warmers[name].code not in {after.warmers[name].code, before.builders[name].code}
    assert before.warmers.keys() == before.builders.keys() - {"inductor", "vllm-cpu"}
