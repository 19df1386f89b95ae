"""What comes out of a warm start is held against what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.bundle import OPTIONS, is_bundle, options_of
from enginekeeper.building.interface import BuildRequest
from enginekeeper.building.trtllm_pytorch import TrtllmPytorchBuilder
from enginekeeper.errors import InputError
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.llm_options import KvCache, LlmOptions
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.results import StepOutcome

Change = Callable[[dict[str, Any]], object]
H100 = gpu_products()["h100-sxm"]
LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128, "max_num_tokens": 256}
BUILDER = TrtllmPytorchBuilder(
    releases()["tensorrt-llm-1.2.1"], H100, "tensorrt-llm-1.2.1",
    LlmOptions(kv_cache_config=KvCache(dtype="fp8")),
)  # fmt: skip


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    return BuildRequest(tmp_path / "checkpoint", tmp_path / "bundle", LIMITS)


def _run(**changes: Change) -> Callable[[str, str, Mapping[str, Any]], StepOutcome]:
    """Returns a step that writes a bundle, with a change to one of its documents."""

    def run(_toolchain: str, _step: str, job: Mapping[str, Any]) -> StepOutcome:
        output = Path(job["output"])
        output.mkdir()
        key = {
            "gpu_product": job["gpu"]["product"], "driver": "580.95.05", "cuda": "13.0",
            "compute_capability": job["gpu"]["compute_capability"], "packages": {},
        }  # fmt: skip
        documents: dict[str, dict[str, Any]] = {
            "warmup": {"key": key, "caches": {"triton": {"files": 0, "bytes": 0}}},
            "options": json.loads(job["file"]),
            "quantization": {"quantization": {"quant_algo": "FP8"}},
        }
        for name, change in changes.items():
            change(documents[name])
        names = {
            "warmup": "warmup.json",
            "options": OPTIONS,
            "quantization": "hf_quant_config.json",
        }
        for name, document in documents.items():
            (output / names[name]).write_text(json.dumps(document))
        return StepOutcome({}, {}, 1.0, output / "step.log")

    return run


def test_what_was_asked_for_is_taken_with_what_stayed_empty(request_: BuildRequest) -> None:
    built = BUILDER.build(request_, _run())

    assert (built.simulated, is_bundle(built.directory)) == (False, True)
    assert built.report["quantization"] == {"quant_algo": "FP8"}
    assert built.report["warnings"] == ["warming up left nothing in the cache triton"]
    assert options_of(built.directory, "1.2.1")["kv_cache_config"] == {"dtype": "fp8"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup": lambda it: it.update(simulated=True)}, "whether it is simulated"),
        ({"options": lambda it: it.update(max_batch_size=8)}, "other options"),
        ({"options": lambda it: it.pop("max_seq_len")}, "no limit"),
        ({"options": lambda it: it.update(model="elsewhere")}, "name a model"),
        ({"options": lambda it: it.update(max_beam_width=4)}, "takes no max_beam_width"),
        ({"warmup": lambda it: it["key"].update(gpu_product="NVIDIA L4")}, "of another GPU"),
        ({"warmup": lambda it: it.pop("key")}, "what they are bound to"),
    ],
)
def test_what_was_not_asked_for_is_refused(
    changes: dict[str, Change], words: str, request_: BuildRequest
) -> None:
    with pytest.raises(InputError, match=words):
        BUILDER.build(request_, _run(**changes))


def test_a_double_is_not_taken_for_a_real_bundle(request_: BuildRequest) -> None:
    with pytest.raises(InputError, match="whether it is simulated"):
        replace(BUILDER, simulated=True).build(request_, _run())


@pytest.mark.parametrize(("tuned", "missing"), [([0, 1], None), ([0], "rank 1"), ([], "rank 0, 1")])
def test_a_rank_that_the_autotuner_kept_nothing_of_is_told(
    tuned: list[int], missing: str | None, request_: BuildRequest
) -> None:
    held = {"files": 1, "bytes": 2, "ranks": tuned}

    built = replace(BUILDER, tensor_parallel=2).build(
        request_, _run(warmup=lambda it: it.update(caches={"autotuner": held}))
    )

    assert options_of(built.directory, "1.2.1")["tensor_parallel_size"] == 2
    told = [one for one in built.report["warnings"] if "autotuner has nothing of" in one]
    assert [str(missing) in one for one in told] == ([] if missing is None else [True])
