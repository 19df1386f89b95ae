"""Exports a quantized model as ModelOpt's unified checkpoint in Hugging Face's format.

What a server multiplies at once (q, k and v; gate and up) it gives one per-tensor scale: where the
parts differ, TensorRT-LLM's PyTorch backend and vLLM take the largest and round the weights to FP8
a second time when they load. So they get one scale before the export, as ModelOpt's other export
does it, and the bytes that are stored are those that are multiplied.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from _step import Refusal
from safetensors import safe_open

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

HALVES = ("BF16", "F16")

ENDS = "generation_config.json"

OWN = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""What an export has of its own; the rest of a model it has byte for byte."""


def export_unified(
    model: torch.nn.Module, source: Path, files: Sequence[str], output: Path
) -> None:
    """Exports beside the final place and renames; refuses what ModelOpt left unquantized.

    `files` are the model's, by path: a server reads tokenizer, templates and ends of texts there.
    """
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415 - seconds to import
    from transformers import GenerationConfig  # noqa: PLC0415

    print("progress 2/3 exporting", flush=True)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if ENDS in files:
        # transformers saves no sampling that contradicts itself; the source's file is copied below.
        model.generation_config = GenerationConfig()
    with torch.inference_mode():
        share_scales(model)
        # A per-tensor scale is a number, which does not widen bfloat16: in the model's own dtype
        # weights would be divided in it, and so rounded once before they are rounded to FP8. What
        # is not quantized keeps its dtype whatever is said here.
        export_hf_checkpoint(model, dtype=torch.float32, export_dir=partial)
    if not (partial / "hf_quant_config.json").is_file():
        raise Refusal(
            "unexpected-output", "ModelOpt wrote no hf_quant_config.json: nothing was quantized",
            where=partial, remedy="set a recipe that quantizes",
        )  # fmt: skip
    _copy(
        [name for name in files if not any(fnmatchcase(name, own) for own in OWN)], source, partial
    )
    for path in partial.iterdir():
        path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only
    partial.rename(output)


def keep_unquantized(source: Path, files: Sequence[str], output: Path) -> None:
    """Copies a model as it is: what nothing is quantized of is served from the source's own bytes.

    Refuses weights that are not in half precision: a server would round them when it loads.
    """
    print("progress 2/3 copying", flush=True)
    for path in (source / name for name in files if name.endswith(".safetensors")):
        with safe_open(path, framework="pt") as handle:
            names = handle.keys()  # the handle itself is not iterable
            for name in names:
                dtype = handle.get_slice(name).get_dtype()
                if dtype not in HALVES:
                    raise Refusal(
                        "unknown-dtype", "the model is not stored in half precision",
                        where=f"{path.name}: {name}", expected=", ".join(HALVES), actual=dtype,
                        remedy="store it in bfloat16, or set a recipe that quantizes",
                    )  # fmt: skip
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _copy(files, source, partial)
    partial.rename(output)


def _copy(names: Sequence[str], source: Path, target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)


def share_scales(model: torch.nn.Module) -> None:
    """Gives linears that are multiplied at once the largest of their per-tensor ranges."""
    for parent in model.modules():
        for names in FUSED:
            quantizers = [_weight_quantizer(parent, name) for name in names]
            ranges = [getattr(one, "amax", None) for one in quantizers]
            if all(one is not None and one.numel() == 1 for one in ranges):
                largest = torch.stack([one.reshape(()) for one in ranges]).max()
                for quantizer, own in zip(quantizers, ranges, strict=True):
                    quantizer.amax = largest.reshape(own.shape)


def _weight_quantizer(parent: torch.nn.Module, name: str) -> torch.nn.Module | None:
    return getattr(getattr(parent, name, None), "weight_quantizer", None)
