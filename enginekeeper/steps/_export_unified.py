"""Exports a quantized model as ModelOpt's unified checkpoint in Hugging Face's format.

What a server multiplies at once (q, k and v; gate and up) it gives one per-tensor scale: where the
parts differ, TensorRT-LLM's PyTorch backend and vLLM take the largest and round the weights to FP8
a second time when they load. So they get one scale before the export, as ModelOpt's other export
does it, and the bytes that are stored are those that are multiplied.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from _step import Refusal

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

TOKENIZER = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
"""Files that a server reads beside the weights, as far as the source has them."""


def export_unified(model: torch.nn.Module, source: Path, output: Path) -> None:
    """Exports beside the final place and renames; refuses what ModelOpt left unquantized."""
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415 - seconds to import

    print("progress 2/3 exporting", flush=True)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
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
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, partial / name)
    for path in partial.iterdir():
        path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only
    partial.rename(output)


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
