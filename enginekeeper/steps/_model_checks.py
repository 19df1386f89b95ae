"""What is looked at before ModelOpt starts, so that bad input is a refusal and not a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from _modelopt_recipes import QuantizationRequest
from _step import Refusal

DECODERS = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen",
    "Qwen3ForCausalLM": "qwen",
}
"""Hugging Face architecture to ModelOpt's decoder type (its MODEL_NAME_TO_TYPE, 0.47.0)."""

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Linears that TensorRT-LLM runs as one, so that they are quantized alike or not at all."""

NEVER_QUANTIZED = "lm_head"
"""Every ModelOpt preset leaves the head alone."""


def check_config(model: Path, tensor_parallel: int) -> str:
    """Returns ModelOpt's decoder type; refuses what it cannot export or what would be cut wrong."""
    config = _read_config(model)
    architectures = config.get("architectures") or [None]
    if architectures[0] not in DECODERS:
        raise Refusal(
            "unsupported-architecture",
            f"cannot export a checkpoint for {architectures[0]}",
            where=str(model / "config.json"),
            expected=", ".join(DECODERS),
            actual=architectures[0],
        )
    _check_heads(config, tensor_parallel)
    return DECODERS[architectures[0]]


def _read_config(model: Path) -> Mapping[str, Any]:
    path = model / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal("model-incomplete", "there is no config.json", where=str(model)) from None
    except json.JSONDecodeError as fault:
        raise Refusal("model-malformed", f"not JSON: {fault}", where=str(path)) from fault
    if not list(model.glob("*.safetensors")):
        raise Refusal("model-incomplete", "the model has no safetensors weights", where=str(model))
    return config


def _check_heads(config: Mapping[str, Any], tensor_parallel: int) -> None:
    """Refuses a split in the middle of a head, which ModelOpt makes without a word."""
    heads = config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads") or heads
    if heads % tensor_parallel:
        raise Refusal(
            "heads-not-divisible",
            f"tensor parallel {tensor_parallel} would cut an attention head in two",
            where="tensor_parallel",
            expected=f"a divisor of {heads} query heads",
            actual=tensor_parallel,
        )
    if key_heads % tensor_parallel and tensor_parallel % key_heads:
        raise Refusal(
            "heads-not-divisible",
            f"tensor parallel {tensor_parallel} would cut a key-value head in two",
            where="tensor_parallel",
            expected=f"a divisor or a multiple of {key_heads} key-value heads",
            actual=tensor_parallel,
        )


def check_loading(report: Mapping[str, Any], model: Path) -> None:
    """Refuses a model whose files lack tensors: transformers would draw them at random."""
    absent = sorted(str(name) for name in report.get("missing_keys", ()))
    if absent:
        raise Refusal(
            "model-incomplete",
            f"{len(absent)} tensors are missing, the first is {absent[0]}",
            where=str(model),
            expected="every tensor of the architecture",
            actual=f"{len(absent)} missing",
            remedy="download the model again; a shard may be missing",
        )


def check_weights(model: torch.nn.Module) -> None:
    """Refuses weights that are not numbers: their scales would be NaN and the engine silent."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise Refusal(
                "non-finite-weights",
                f"{bad} of {tensor.numel()} weights are NaN or infinite",
                where=name,
                expected="finite numbers",
                actual=f"{bad} non-finite",
                remedy="download the model again and compare its digests with the publisher's",
            )


def check_linears(
    model: torch.nn.Module, request: QuantizationRequest, tensor_parallel: int = 1
) -> None:
    """Refuses a group size or an exclusion that the model's linears cannot follow."""
    names = [name for name, _ in _linears(model)]
    for pattern in request.exclude_modules:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise Refusal(
                "unmatched-exclusion",
                "no linear has a name that fits",
                where="exclude_modules",
                expected=f"a pattern over names such as {names[0]}",
                actual=pattern,
            )
    _check_fusions(names, request)
    if request.traits.grouped:
        _check_group_size(model, request, tensor_parallel)


def _linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


def _excluded(name: str, request: QuantizationRequest) -> bool:
    return name == NEVER_QUANTIZED or any(
        fnmatchcase(name, pattern) for pattern in request.exclude_modules
    )


def _check_fusions(names: list[str], request: QuantizationRequest) -> None:
    """Refuses to exclude a part of what TensorRT-LLM fuses into one weight."""
    known = set(names)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        for group in FUSED:
            members = [f"{parent}.{sibling}" for sibling in group] if leaf == group[0] else []
            states = {_excluded(member, request) for member in members if member in known}
            if len(states) > 1:
                raise Refusal(
                    "partial-fusion",
                    f"{', '.join(group)} run as one and must be excluded together",
                    where=parent,
                    expected="all of them or none",
                    actual=", ".join(m for m in members if _excluded(m, request)),
                )


def _check_group_size(
    model: torch.nn.Module, request: QuantizationRequest, tensor_parallel: int
) -> None:
    """ModelOpt asks it of every linear's columns over the ranks, of those split by rows, too."""
    for name, linear in _linears(model):
        columns = linear.in_features // tensor_parallel
        uneven = linear.in_features % tensor_parallel or columns % request.group_size
        if not _excluded(name, request) and uneven:
            share = f"{linear.in_features} columns"
            if tensor_parallel > 1:
                share += f" over {tensor_parallel} ranks"
            raise Refusal(
                "group-size",
                f"a group of {request.group_size} does not divide {share}",
                where=name,
                expected=f"a divisor of {columns}",
                actual=request.group_size,
                remedy="choose a smaller group size or fewer ranks, or exclude this linear",
            )
