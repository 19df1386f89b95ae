"""The TensorRT-LLM builder through the real step runner; the tool is the double, the GPU made up.

Nothing here has run on a GPU, and every engine says that it is simulated.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.failure_taxonomy import UNKNOWN, corpus
from enginekeeper.building.interface import BuildRequest, TimingFiles
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.errors import InputError
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.errors import (
    DiagnosedStepError,
    StepCrashedError,
    StepRefusedError,
)
from enginekeeper.toolchains.runner import STEPS, StepOutcome, StepRun, run_step, step_environment
from tests.factories.trtllm_checkpoints import checkpoint_config
from tests.fakes.trtllm.toolchain import FakeToolchain, fake_toolchain

H100, L4 = gpu_products()["h100-sxm"], gpu_products()["l4"]
LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128, "max_num_tokens": 256}


@dataclass(frozen=True)
class Site:
    """A toolchain of the double, a checkpoint, and a builder."""

    tools: FakeToolchain
    builder: TensorrtLlmBuilder
    request: BuildRequest

    def run(self, toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        """Runs a step as the workshop does."""
        logs = self.tools.folder.parent / "logs"
        return run_step(
            StepRun(toolchain, step, job, logs, timeout_seconds=60), python=self.tools.python
        )

    def build(self, **options: Any) -> Any:  # noqa: ANN401 - what the builder returns
        """Builds with these options."""
        return self.builder.build(replace(self.request, options=options), self.run)

    @property
    def leftovers(self) -> list[str]:
        """What lies beside the engine's place."""
        return sorted(it.name for it in self.request.output.parent.glob("*"))


def _site(tmp_path: Path, version: str = "1.2.1", world: int = 1, h100s: int = 1) -> Site:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    mapping = {"world_size": world, "tp_size": world, "pp_size": 1}
    (checkpoint / "config.json").write_text(json.dumps(checkpoint_config(mapping=mapping)))
    for rank in range(world):
        (checkpoint / f"rank{rank}.safetensors").touch()
    tools = fake_toolchain(tmp_path / "bin", version, L4, *[H100] * h100s)
    release = releases()[f"tensorrt-llm-{version}"]
    builder = TensorrtLlmBuilder(release, H100, f"simulated-{release.name}", simulated=True)
    return Site(tools, builder, BuildRequest(checkpoint, tmp_path / "out" / "engine", LIMITS))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return _site(tmp_path)


@pytest.mark.parametrize("version", ["0.18.2", "0.21.0", "1.0.0", "1.2.1"])
def test_a_build_ends_in_a_whole_engine_that_is_marked_as_simulated(
    version: str, tmp_path: Path
) -> None:
    site = _site(tmp_path, version)

    built = site.build(gemm_plugin="auto")

    assert built.simulated
    assert {it.name for it in built.directory.iterdir()} == {"config.json", "rank0.engine"}
    assert built.description["device"]["product"] == H100.product
    config = json.loads((built.directory / "config.json").read_text())
    assert config["visible_devices"] == "GPU-1"  # the second: the first is of another product
    assert "--gemm_plugin=auto" in built.description["arguments"]
    assert built.description["peak_memory"] == {"host_mb": 5800.25, "children_mb": 0.0}
    assert built.description["inspection"]["warnings"] == ()
    assert site.leftovers == ["engine"]


def test_a_double_in_a_real_toolchain_is_told(site: Site) -> None:
    real = replace(site, builder=replace(site.builder, simulated=False))

    with pytest.raises(InputError, match="do not agree on whether it is simulated"):
        real.build()


def test_every_rank_is_built_and_what_came_out_otherwise_is_reported(tmp_path: Path) -> None:
    built = _site(tmp_path, world=2).build(use_fp8_context_fmha=True)

    inspection = built.description["inspection"]
    assert (inspection["ranks"], built.description["ranks"]) == (2, 2)
    assert inspection["differences"] == (
        {"option": "use_fp8_context_fmha", "requested": True, "effective": False},
    )


def test_ranks_are_built_at_once_on_the_gpus_that_were_given_to_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    site = _site(tmp_path, world=2, h100s=3)
    job = site.builder.job(site.request, workers=2)

    outcome = site.run("tool", "build_trtllm", job)

    assert (outcome.outputs["workers"], outcome.outputs["ranks"]) == (2, 2)
    config = json.loads((site.request.output / "config.json").read_text())
    assert config["visible_devices"] == "GPU-1,GPU-2"
    assert "--workers" not in " ".join(outcome.outputs["arguments"])  # no part of what is asked


def test_without_the_right_gpu_nothing_is_started(site: Site) -> None:
    b200 = replace(site, builder=replace(site.builder, gpu=gpu_products()["b200"]))

    with pytest.raises(StepRefusedError) as caught:
        b200.build()

    assert caught.value.kind == "wrong-gpu"
    assert H100.product in str(caught.value.actual)
    assert not site.request.output.parent.exists()


def test_a_gpu_that_is_hidden_from_the_build_is_not_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    with pytest.raises(StepRefusedError) as caught:
        site.build()

    assert caught.value.kind == "wrong-gpu"


def test_a_driver_that_does_not_answer_is_a_refusal(site: Site) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    (site.tools.folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'; exit 18\n")

    with pytest.raises(StepRefusedError) as caught:
        site.build()

    assert (caught.value.kind, caught.value.actual) == ("driver-silent", said)


@pytest.mark.parametrize("release", ["1.2.0", "0.21.0"])  # each says its name in another spelling
def test_a_toolchain_of_another_release_is_refused_and_leaves_nothing(
    release: str, site: Site
) -> None:
    site.tools.tell(says=release)

    with pytest.raises(StepRefusedError) as caught:
        site.build()

    assert (caught.value.kind, caught.value.actual) == ("wrong-release", release)
    assert site.leftovers == []


def test_a_rank_that_was_not_built_is_no_engine(tmp_path: Path) -> None:
    site = _site(tmp_path, world=2)
    site.tools.tell(leave_out=[1])

    with pytest.raises(StepRefusedError) as caught:
        site.build()

    assert caught.value.kind == "engine-incomplete"
    assert site.leftovers == []


def test_an_option_the_release_lacks_never_reaches_the_tool(site: Site) -> None:
    with pytest.raises(InputError, match="gpus_per_node"):
        site.build(gpus_per_node=8)


def test_a_release_without_the_tool_builds_nothing(site: Site) -> None:
    late = replace(site.builder, release=releases()["tensorrt-llm-1.3.0rc22"])

    with pytest.raises(InputError, match="no trtllm-build"):
        late.build(site.request, site.run)


@pytest.mark.parametrize(
    "case",
    [case for case in corpus() if case["lines"]][::6],
    ids=lambda case: case["name"],
)
def test_a_failed_build_is_told_by_its_cause(case: dict[str, Any], site: Site) -> None:
    site.tools.tell(fail=case["lines"])

    with pytest.raises(StepCrashedError) as caught:
        site.build()

    group = getattr(caught.value, "group", UNKNOWN)
    assert group == case["group"]
    assert site.leftovers == []


def test_what_the_tool_itself_refuses_is_told_by_its_cause(site: Site) -> None:
    site.tools.tell(sm=100)

    with pytest.raises(DiagnosedStepError) as caught:
        site.build(gemm_swiglu_plugin="fp8")

    assert caught.value.group == "unsupported_quantization"
    assert any("gemm_swiglu_plugin=fp8" in line for line in caught.value.log)


def test_a_killed_tool_is_told_as_want_of_memory(site: Site) -> None:
    (site.tools.folder / "trtllm-build").write_text("#!/bin/sh\nkill -9 $$\n")

    with pytest.raises(DiagnosedStepError) as caught:
        site.build()

    assert caught.value.group == "out_of_host_memory"


def test_killing_a_build_leaves_no_process_and_no_half_engine(site: Site) -> None:
    mark = site.tools.folder.parent / "pid"
    (site.tools.folder / "trtllm-build").write_text(f'#!/bin/sh\necho $$ > "{mark}"\nsleep 600\n')
    job, result = site.tools.folder.parent / "job.json", site.tools.folder.parent / "result.json"
    job.write_text(json.dumps(site.builder.job(site.request)))
    command = [str(site.tools.python), "-s", "-E", "-u", str(STEPS / "build_trtllm.py")]
    with subprocess.Popen(
        [*command, job, result],
        env=step_environment(os.environ, site.tools.python),
        stdin=subprocess.PIPE,
        start_new_session=True,
    ) as step:
        tool = _pid(mark)
        os.killpg(step.pid, signal.SIGKILL)

    _gone(tool)
    assert not site.request.output.exists()
    assert not result.exists()


def _pid(mark: Path) -> int:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if mark.is_file() and (text := mark.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the tool was not started")


def _gone(pid: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"{pid} still runs under {sys.platform}")


def _timed(site: Site, tmp_path: Path, start: Path | None, name: str) -> Any:  # noqa: ANN401 - as build
    files = TimingFiles(start, tmp_path / f"{name}.cache")
    request = replace(site.request, output=tmp_path / name / "engine", timing=files)
    return site.builder.build(request, site.run)


def test_a_build_leaves_its_timings_and_the_next_one_starts_from_them(tmp_path: Path) -> None:
    site = _site(tmp_path, world=2)

    first = _timed(site, tmp_path, None, "first")
    second = _timed(site, tmp_path, tmp_path / "first.cache", "second")

    said = [it.report["timing_cache"] for it in (first, second)]
    # the second rank of the first build found what its first rank had measured
    assert [(it["ranks"], it["fresh"], it["not_taken"]) for it in said] == [(2, 1, 0), (2, 0, 0)]
    assert [it["entries"] for it in said] == [3, 3]  # nothing was measured anew
    assert (said[0]["before"], said[1]["before"]) == (None, said[0]["after"])
    assert (tmp_path / "first.cache").read_bytes() == (tmp_path / "second.cache").read_bytes()
    configs = [(it.directory / "config.json").read_bytes() for it in (first, second)]
    assert configs[0] == configs[1]  # the engine does not tell whether there was a cache
    assert site.leftovers == []


def test_the_timings_of_another_gpu_would_end_the_build(tmp_path: Path) -> None:
    site = _site(tmp_path)
    _timed(site, tmp_path, None, "first")
    site.tools.tell(sm=100)

    with pytest.raises(StepCrashedError) as caught:
        _timed(site, tmp_path, tmp_path / "first.cache", "second")

    assert "Failed to save timing cache." in caught.value.place.log.read_text()
    assert not (tmp_path / "second.cache").exists()
