"""The builder of PyTorch-backend bundles through the real step runner, against doubles.

Nothing here has run on a GPU: `tensorrt_llm` is a double, its caches are names with marked content.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from enginekeeper.building.interface import BuildRequest
from enginekeeper.building.runtime_caches import CacheKey, restore_caches
from enginekeeper.building.simulated.fleet import DRIVER
from enginekeeper.building.trtllm_pytorch import TrtllmPytorchBuilder
from enginekeeper.errors import InputError
from enginekeeper.orchestration.asking import probe_job, served_job
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.llm_options import LlmOptions, TorchCompile
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.runner import StepOutcome
from enginekeeper.validation.probes import load_probes
from tests.factories.checkpoints import SOURCE
from tests.factories.engine_bench import Bench

pytestmark = pytest.mark.toolchain

H100 = gpu_products()["h100-sxm"]
LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128, "max_num_tokens": 256}


@dataclass(frozen=True)
class Site:
    """A builder, what it is given, and the double's toolchain."""

    bench: Bench
    builder: TrtllmPytorchBuilder
    request: BuildRequest

    def run(self, toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        del toolchain  # the double needs torch, which the embedded builder's toolchain has
        version = self.builder.release.version
        double = {"version": version, "models": {str(self.request.checkpoint): str(SOURCE)}}
        whole = {"step": step, "job": dict(job), "double": double}
        return self.bench.run("run_with_double", whole, "warm")


@pytest.fixture
def site(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    checkpoint, tools = tmp_path / "checkpoint", tmp_path / "tools"
    shutil.copytree(SOURCE, checkpoint)
    quantization = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}
    (checkpoint / "hf_quant_config.json").write_text(json.dumps(quantization))
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\ncase "$*" in *driver_version*) echo ' + DRIVER + " ;;\n"
        f"*) echo '0, GPU-0, {H100.product}, {H100.compute_capability}' ;; esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    builder = TrtllmPytorchBuilder(
        releases()["tensorrt-llm-1.2.1"], H100, "tensorrt-llm-1.2.1", simulated=True
    )
    return Site(bench, builder, BuildRequest(checkpoint, tmp_path / "out" / "bundle", LIMITS))


def test_a_bundle_holds_checkpoint_options_and_the_caches_of_a_warm_start(site: Site) -> None:
    options = LlmOptions(torch_compile_config=TorchCompile(enable_inductor=True))
    built = replace(site.builder, options=options).build(site.request, site.run)

    assert built.simulated
    assert {one.name for one in built.directory.iterdir()} >= {
        "config.json", "hf_quant_config.json", "llm_api_options.yaml", "warmup.json", "caches",
    }  # fmt: skip
    given = json.loads((built.directory / "llm_api_options.yaml").read_text())
    assert given["torch_compile_config"] == {"enable_inductor": True}
    held = built.report["caches"]
    assert set(held) == {"autotuner", "deep_gemm", "triton", "flashinfer", "torch_compile"}
    assert all(one["files"] for one in held.values())
    assert built.report["warnings"] == []
    assert built.report["quantization"]["quant_algo"] == "FP8"
    assert [one.name for one in site.request.output.parent.iterdir()] == ["bundle"]


def test_what_was_not_filled_is_told_and_what_was_goes_to_its_own_node_only(
    site: Site, tmp_path: Path
) -> None:
    built = site.builder.build(site.request, site.run)

    assert built.report["warnings"] == ["warming up left nothing in the cache torch_compile"]
    document = json.loads((built.directory / "warmup.json").read_text())
    key = CacheKey.from_dict(document["key"], "warmup.json")
    assert (key.gpu_product, key.driver) == (H100.product, DRIVER)
    assert "torch" in key.packages
    restored = restore_caches(built.directory, key, tmp_path / "here")
    assert b"SIMULATED" in Path(restored["TLLM_AUTOTUNER_CACHE_PATH"]).read_bytes()
    with pytest.raises(InputError, match="not of this node"):
        restore_caches(built.directory, replace(key, driver="590.44.01"), tmp_path / "there")


def test_a_checkpoint_that_nobody_quantized_is_refused_before_any_work(site: Site) -> None:
    (site.request.checkpoint / "hf_quant_config.json").unlink()

    with pytest.raises(StepRefusedError) as caught:
        site.builder.build(site.request, site.run)

    assert (caught.value.kind, caught.value.expected) == (
        "not-a-checkpoint", "hf_quant_config.json",
    )  # fmt: skip
    assert not site.request.output.parent.exists()


def test_a_model_as_it_is_is_warmed_up_and_a_quantized_one_not_taken_for_it(site: Site) -> None:
    plain = replace(site.builder, quantized=False)
    with pytest.raises(StepRefusedError, match="the checkpoint is quantized"):
        plain.build(site.request, site.run)
    (site.request.checkpoint / "hf_quant_config.json").unlink()

    built = plain.build(site.request, site.run)

    assert built.report["quantization"] is None
    assert not (built.directory / "hf_quant_config.json").exists()


def test_without_the_gpu_nothing_is_started(site: Site) -> None:
    other = replace(site.builder, gpu=gpu_products()["b200"])

    with pytest.raises(StepRefusedError) as caught:
        other.build(site.request, site.run)

    assert caught.value.kind == "wrong-gpu"


@pytest.mark.parametrize("gpus", [1, 2])
def test_ranks_have_a_gpu_each_or_nothing_is_started(site: Site, gpus: int, tmp_path: Path) -> None:
    smi = tmp_path / "tools" / "nvidia-smi"
    row = f"GPU-{{}}, {H100.product}, {H100.compute_capability}"
    listed = "".join(f"{one}, {row.format(one)}\\n" for one in range(gpus))
    smi.write_text(
        f'#!/bin/sh\ncase "$*" in *driver_version*) echo {DRIVER} ;; *) printf "{listed}" ;; esac\n'
    )
    both = replace(site.builder, tensor_parallel=2)
    if gpus == 1:
        with pytest.raises(StepRefusedError, match="there are not 2 GPUs"):
            both.build(site.request, site.run)
        return

    built = both.build(site.request, site.run)

    assert [one["uuid"] for one in built.description["devices"]] == ["GPU-0", "GPU-1"]
    assert built.report["caches"]["autotuner"]["ranks"] == [0, 1]
    assert built.report["warnings"] == ["warming up left nothing in the cache torch_compile"]


def test_a_bundle_is_served_with_its_options_and_a_copy_of_its_caches(
    site: Site, tmp_path: Path
) -> None:
    bundle = site.builder.build(site.request, site.run).directory
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").touch()
    told = served_job("1.2.1", bundle, tokenizer, "pytorch")
    output = site.bench.folder / "served.safetensors"
    asked = {
        "tokens": str(site.bench.tokens(96)), "targets": {}, "output": str(output), "top_k": 20,
        "greedy": {"prefix": 4, "tokens": 4}, **told,
        "gpu": {"product": H100.product, "compute_capability": str(H100.compute_capability)},
        "ranks": 1,
    }  # fmt: skip
    double = {"version": "1.2.1", "models": {str(bundle): str(SOURCE)}}

    done = site.bench.run(
        "run_with_double", {"step": "score_served", "job": asked, "double": double}, "served"
    )

    assert (done.outputs["caches"], done.outputs["simulated"]) == ("used", True)
    with safe_open(output, framework="np") as handle:
        assert np.isfinite(handle.get_tensor("greedy_logprobs")).all()


def test_a_bundle_is_asked_in_other_ways_with_a_copy_of_its_caches(site: Site) -> None:
    bundle = site.builder.build(site.request, site.run).directory
    output = site.bench.folder / "probes.safetensors"
    asked = {
        **probe_job("1.2.1", bundle, "pytorch"), "tokens": str(site.bench.tokens(96)),
        "prompts": [0, 1, 2], "longest": 8, "top_k": 20, "output": str(output),
        "gpu": {"product": H100.product, "compute_capability": str(H100.compute_capability)},
        "ranks": 1,
    }  # fmt: skip
    double = {"version": "1.2.1", "models": {str(bundle): str(SOURCE)}}

    site.bench.run(
        "run_with_double", {"step": "probe_trtllm", "job": asked, "double": double}, "probes"
    )

    probes = load_probes(output)
    assert probes.offers == {"batch", "choices", "decode", "logits", "reuse", "text"}
    assert probes.ladders["reuse"] == ("reuse-1",)
    assert max(probes.divergence(rung).max() for rung in probes.rungs) < 1e-6
    assert probes.stop is not None
    assert (probes.stop.asked, probes.stop.wrong) == (4, ())
