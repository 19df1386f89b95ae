"""Quantizes a Hugging Face model with ModelOpt and exports a checkpoint.

With `"format": "huggingface"` in the job it is one in Hugging Face's format, for TensorRT-LLM's
PyTorch backend and vLLM, with whatever of `files`, the model's own, is neither weights nor config
beside it; without, one for `trtllm-build`. A recipe that quantizes nothing leaves the source as it
is there.

The checkpoint is left exactly as ModelOpt wrote it, faults included: what is wrong with it is for
the audits to find and for a recorded repair to change, never for this step to hide.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _calibration import CalibrationRequest, batches
from _export_unified import export_unified, keep_unquantized
from _model_checks import check_config, check_linears, check_loading, check_weights
from _modelopt_recipes import QuantizationRequest, modelopt_config
from _step import Refusal, main
from _tokenizers import load
from safetensors import SafetensorError

THREADS = 2
"""How many threads torch computes with.

A sum split over another number of threads rounds otherwise, and then the same inputs would give
another checkpoint on another host: the number is fixed here, not taken from the machine.
"""


@dataclass(frozen=True)
class _Job:
    model: Path
    output: Path
    request: QuantizationRequest
    calibration: CalibrationRequest
    tensor_parallel: int
    pipeline_parallel: int
    dtype: torch.dtype
    format: str
    files: tuple[str, ...]


FORMATS = ("tensorrt_llm", "huggingface")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the checkpoint directory and returns what ModelOpt says about it."""
    request = _parse(job)
    if request.output.exists() and any(request.output.iterdir()):
        raise Refusal("output-exists", "the output is not empty", where=str(request.output))
    decoder = check_config(request.model, request.tensor_parallel)
    _make_deterministic(request.calibration.seed)
    import modelopt  # noqa: PLC0415 - seconds to import; refusals come first

    model = _load_model(request)
    check_weights(model)
    # Only an export for engines is made for a number of ranks.
    ranks = request.tensor_parallel if request.format == "tensorrt_llm" else 1
    check_linears(model, request.request, ranks)
    tokens = _quantize(model, request)
    if request.format == "huggingface" and request.request.keeps_all:
        keep_unquantized(request.model, request.files, request.output)
        said = None
    elif request.format == "huggingface":
        export_unified(model, request.model, request.files, request.output)
        said = _read_block(request.output / "hf_quant_config.json")
    else:
        _export(model, decoder, request)
        said = _read_block(request.output / "config.json")
    return {
        "modelopt": modelopt.__version__,
        "quant_config": said,
        "calibration_tokens": tokens,
        "files": sorted(path.name for path in request.output.iterdir()),
    }


def _read_block(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))["quantization"]


def _parse(job: Mapping[str, Any]) -> _Job:
    calibration = job["calibration"]
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if job["dtype"] not in dtypes:
        raise Refusal(
            "unknown-dtype",
            "TensorRT-LLM checkpoints hold half precision only",
            where="dtype",
            expected=", ".join(dtypes),
            actual=job["dtype"],
        )
    wanted = job.get("format", "tensorrt_llm")
    if wanted not in FORMATS:
        raise Refusal(
            "job", "no such format", where="format", expected=", ".join(FORMATS), actual=wanted
        )
    return _Job(
        model=Path(job["model"]),
        output=Path(job["output"]),
        request=QuantizationRequest(
            recipe=job["recipe"],
            kv_cache=job["kv_cache"],
            group_size=int(job["group_size"]),
            exclude_modules=tuple(job["exclude_modules"]),
        ),
        calibration=CalibrationRequest(
            path=Path(calibration["path"]),
            samples=int(calibration["samples"]),
            max_tokens=int(calibration["max_tokens"]),
            seed=int(calibration["seed"]),
        ),
        tensor_parallel=int(job["tensor_parallel"]),
        pipeline_parallel=int(job["pipeline_parallel"]),
        dtype=dtypes[job["dtype"]],
        format=wanted,
        files=_files(job) if wanted == "huggingface" else (),
    )


def _files(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the model's files; an export that was told of none would have no tokenizer."""
    files = tuple(job.get("files", ()))
    if "config.json" not in files:
        raise Refusal(
            "job", "the model's files are not named", where="files", expected="config.json, ...",
            actual=", ".join(files),
        )  # fmt: skip
    return files


def _make_deterministic(seed: int) -> None:
    """Fixes everything that could make a second run differ from the first."""
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)


def _load_model(job: _Job) -> torch.nn.Module:
    """Loads the weights from local files only, in the precision the checkpoint will have."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    print("progress 0/3 loading the model", flush=True)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            job.model,
            dtype=job.dtype,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as fault:
        raise Refusal(
            "model-malformed",
            f"the model cannot be loaded: {fault}",
            where=str(job.model),
            remedy="download the model again and compare its digests with the publisher's",
        ) from fault
    check_loading(report, job.model)
    return model.eval()


def _quantize(model: torch.nn.Module, job: _Job) -> int:
    """Inserts and calibrates the quantizers; returns how many tokens were observed."""
    config = modelopt_config(job.request)
    if config is None:
        return 0
    import modelopt.torch.quantization as mtq  # noqa: PLC0415 - seconds to import

    print("progress 1/3 quantizing", flush=True)
    samples = _calibration_batches(model, job) if job.request.needs_calibration else []
    try:
        with torch.inference_mode():
            mtq.quantize(model, config, _forward_loop(samples) if samples else None)
    except AssertionError as fault:  # of an observer that met what is no number
        if "nan" not in str(fault):
            raise
        raise _not_finite(str(model.dtype)) from fault
    return sum(ids.numel() for ids in samples)


def _calibration_batches(model: torch.nn.Module, job: _Job) -> list[torch.Tensor]:
    return batches(job.calibration, load(job.model), model.config.vocab_size)


def _forward_loop(samples: list[torch.Tensor]) -> Callable[[torch.nn.Module], None]:
    """Returns the loop ModelOpt calls once per pass over the calibration text."""

    def forward(model: torch.nn.Module) -> None:
        for number, ids in enumerate(samples, start=1):
            print(f"progress {number}/{len(samples)} calibrating", flush=True)
            logits = model(ids, use_cache=False).logits
            if not bool(torch.isfinite(logits).all()):
                raise _not_finite(str(logits.dtype))

    return forward


def _not_finite(dtype: str) -> Refusal:
    """What calibration learns of such activations is nothing, and some of it looks like numbers."""
    return Refusal(
        "calibration-not-finite",
        "the model's activations overflow: there is nothing to calibrate by",
        where="calibration",
        expected="finite numbers",
        actual=f"NaN or infinite in {dtype.removeprefix('torch.')}",
        remedy="quantize with dtype bfloat16, whose range is that of float32",
    )


def _export(model: torch.nn.Module, decoder: str, job: _Job) -> None:
    """Exports beside the final place and renames, so that no half checkpoint is ever seen."""
    from modelopt.torch.export import export_tensorrt_llm_checkpoint  # noqa: PLC0415 - as above

    print("progress 2/3 exporting", flush=True)
    partial = job.output.with_name(job.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with torch.inference_mode():
        # ModelOpt divides by inference_tensor_parallel: its default of 0 is a ZeroDivisionError.
        export_tensorrt_llm_checkpoint(
            model,
            decoder,
            dtype=job.dtype,
            export_dir=partial,
            inference_tensor_parallel=job.tensor_parallel,
            inference_pipeline_parallel=job.pipeline_parallel,
        )
    partial.rename(job.output)


if __name__ == "__main__":
    main(run)
