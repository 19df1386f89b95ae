"""The scales of a quantized KV cache: there for every layer, and finite.

TensorRT-LLM stores K and V with one step, the larger of the two that were calibrated
(`process_kv_scaling_factor` in models/modeling_utils.py), and so do the twins: what that costs is
the recipe's price, for quality to judge, and no fault of an engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from enginekeeper.specs.recipes import KV_QUANT_ALGOS
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import widen
from enginekeeper.validation.numerics.mapping import Geometry

_KINDS = {algorithm: str(kind) for kind, algorithm in KV_QUANT_ALGOS.items() if algorithm}


def findings(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields findings where the scales and the declared KV-cache format do not fit."""
    quantized = checkpoint.quantization.kv_cache is not None
    for layer in range(geometry.layers):
        prefix = f"transformer.layers.{layer}.attention"
        scales = layer_scales(checkpoint, layer)
        if not quantized and scales:
            yield Finding(
                "weights.kv_cache",
                "fail",
                f"{prefix}.{min(scales)}_cache_scaling_factor",
                "there is a KV-cache scale, but the config says the cache is not quantized",
                scales,
                None,
                "T10",
            )
        elif quantized:
            yield from _layer(prefix, scales)


def layer_scales(checkpoint: Checkpoint, layer: int) -> dict[str, float]:
    """Returns a layer's scales under the keys `k`, `v` and `kv`; absent ones are left out."""
    scales = {}
    for key in ("k", "v", "kv"):
        name = f"transformer.layers.{layer}.attention.{key}_cache_scaling_factor"
        tensors = checkpoint.tensors(layer, name)
        if tensors and tensors[0].nbytes:
            values = np.concatenate([widen(t.read()).reshape(-1) for t in tensors])
            same = bool((values == values[0]).all())
            scales[key] = float(values[0]) if same else float("nan")
    return scales


def stored_step(scales: dict[str, float]) -> float:
    """Returns the one step that a layer's K and V are stored with; 1 where no scale says."""
    own = [scales[key] for key in ("k", "v") if key in scales]
    return max(own) if own else scales.get("kv", 1.0)


def coarsest(layers: Sequence[dict[str, float]]) -> dict[str, Any] | None:
    """Returns the layer that suffers most from the shared step: whose is it, how much coarser."""
    shared = [
        (stored_step(scales) / scales[key], layer, key)
        for layer, scales in enumerate(layers)
        for key in ("k", "v")
        if scales.get(key, 0.0) > 0
    ]
    times, layer, key = max(shared, default=(1.0, 0, ""))
    return {"layer": layer, "of": key, "times": times} if times > 1 else None


def twin_document(checkpoint: Checkpoint, geometry: Geometry) -> dict[str, Any] | None:
    """Returns the `kv_cache` entry of `twin.json`, or None when the cache is not quantized."""
    kind = _KINDS.get(checkpoint.quantization.kv_cache or "")
    if kind is None:
        return None
    layers = {}
    for layer in range(geometry.layers):
        step = stored_step(layer_scales(checkpoint, layer))
        layers[str(layer)] = {"k": step, "v": step}
    return {"kind": kind, "layers": layers}


def summary(checkpoint: Checkpoint, geometry: Geometry) -> dict[str, Any] | None:
    """Returns the range of the scales; FP8 scales of exactly 1 are a clamp, not a fault."""
    kind = checkpoint.quantization.kv_cache
    if kind is None:
        return None
    layers = [layer_scales(checkpoint, layer) for layer in range(geometry.layers)]
    values = [value for scales in layers for value in scales.values()]
    return {
        "format": kind,
        "smallest_scale": min(values, default=None),
        "largest_scale": max(values, default=None),
        "all_exactly_one": bool(values) and all(value == 1.0 for value in values),
        "coarsest": coarsest(layers),
    }


def _layer(prefix: str, scales: dict[str, float]) -> Iterator[Finding]:
    shared = "kv" in scales and not scales.keys() & {"k", "v"}
    for key in ("kv",) if shared else ("k", "v"):
        where = f"{prefix}.{key}_cache_scaling_factor"
        value = scales.get(key, scales.get("kv"))
        if value is None:
            yield Finding(
                "weights.kv_cache",
                "fail",
                where,
                "the cache is quantized and its scale is missing; TensorRT-LLM would assume 1",
                "absent",
                "present",
                "T10",
            )
        elif not (np.isfinite(value) and value > 0):
            yield Finding(
                "weights.kv_cache",
                "fail",
                where,
                "the scale is not finite and positive, or the ranks disagree",
                value,
                "> 0",
                "T10",
            )
    merged = scales.get("kv")
    largest = max(scales.get("k", 0.0), scales.get("v", 0.0))
    if merged is not None and largest and merged != largest:
        yield Finding(
            "weights.kv_cache",
            "fail",
            f"{prefix}.kv_cache_scaling_factor",
            "the merged scale is not the larger of the two it stands for",
            merged,
            largest,
            "T10",
        )
