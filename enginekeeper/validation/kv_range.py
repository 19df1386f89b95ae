"""Whether a KV-cache scale fits the keys and values that the source's weights can make.

Rules:

- no output of a linear behind a norm is larger than `reach.py` says; a rotation mixes two outputs
  of a key, whose lengths add up as squares;
- a scale for more than that, with room, is for no calibration of this model;
- over inputs without a direction of their own an output is as large as its row is long, root mean
  square: a scale for much less has nearly everything saturate;
- a scale of exactly 1 is how ModelOpt clamps FP8's, and never what calibration finds for INT8.

Calibrated maxima of SmolLM2-135M were 0.09 to 0.36 of the upper bound, and 2.6 to 15 times the
root mean square. What keys become behind a norm of their own is bounded by that one: not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from enginekeeper.validation import kv_cache
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import E4M3_MAX, INT8_MAX, Floats
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.reach import Reach
from enginekeeper.validation.source_model import SourceModel

_LARGEST = {"FP8": E4M3_MAX, "INT8": INT8_MAX}
"""Largest number in the cache, by its format."""

_ROOM = 4.0
"""What an exporter may leave above the largest value, or calibration may have missed below."""


@dataclass(frozen=True)
class _Range:
    """Magnitudes of keys or values: what they may have on average, and at most."""

    typical: float
    largest: float


def findings(source: SourceModel, checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding for every scale that no calibration of the source would have given."""
    kind = checkpoint.quantization.kv_cache or ""
    if kind not in _LARGEST:
        return
    for layer in range(geometry.layers):
        yield from _several(checkpoint, layer)
        scales = kv_cache.layer_scales(checkpoint, layer)
        usable = {k: v for k, v in scales.items() if math.isfinite(v) and v > 0}
        if not usable:
            continue  # Others say that there is none, or that it is no number.
        ranges = _ranges(source, geometry, layer)
        for key, scale in usable.items():
            yield from _judge(
                f"transformer.layers.{layer}.attention.{key}", key, scale, ranges, kind
            )


def _several(checkpoint: Checkpoint, layer: int) -> Iterator[Finding]:
    """Yields a finding for a scale of more numbers than the one that is read."""
    for key in ("k", "v", "kv"):
        name = f"transformer.layers.{layer}.attention.{key}_cache_scaling_factor"
        shapes = {tensor.shape for tensor in checkpoint.tensors(layer, name)} - {(), (1,)}
        if shapes:
            shape = str(list(max(shapes)))
            message = "the scale is not one number"
            yield Finding("weights.kv_cache", "fail", name, message, shape, "[1]", "T10")


def _judge(
    prefix: str, key: str, scale: float, ranges: dict[str, _Range], kind: str
) -> Iterator[Finding]:
    where = f"{prefix}_cache_scaling_factor"
    if scale == 1.0:
        if kind == "INT8":
            message = "the scale of an INT8 cache is 1, as where none was stored"
            yield Finding("weights.kv_cache", "fail", where, message, scale, "calibrated", "T10")
        return  # ModelOpt's clamp of FP8 scales: shown, for behaviour to judge.
    own = [ranges[one] for one in (("k", "v") if key == "kv" else (key,)) if one in ranges]
    if not own or (key == "kv" and "k" not in ranges):
        return
    most, bounds = (
        scale * _LARGEST[kind],
        _Range(max(one.typical for one in own), max(one.largest for one in own)),
    )
    if bounds.typical / _ROOM <= most <= bounds.largest * _ROOM:
        return
    what = {"k": "keys", "v": "values", "kv": "keys and values"}[key]
    yield Finding(
        "weights.kv_cache",
        "fail",
        where,
        f"the scale is for {what} of up to {most:.4g}; those of this layer are "
        f"{bounds.typical:.4g} on average, and cannot exceed {bounds.largest:.4g}",
        scale,
        [bounds.typical / _LARGEST[kind], bounds.largest / _LARGEST[kind]],
        "T10" if most > bounds.largest else "T11",
    )


def _ranges(source: SourceModel, geometry: Geometry, layer: int) -> dict[str, _Range]:
    """Returns the ranges of a layer's keys and values, as far as they can be known."""
    attention, norm = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.input_layernorm"
    found = {}
    for key in ("k", "v"):
        if f"{attention}.{key}_norm.weight" in source:
            continue
        reach = Reach.of(source, norm, f"{attention}.{key}_proj")
        found[key] = _Range(reach.typical, _largest(reach.largest, geometry, rotated=key == "k"))
    return found


def _largest(bounds: Floats, geometry: Geometry, *, rotated: bool) -> float:
    """Returns the largest magnitude that outputs, turned in pairs if they are keys, can reach.

    Which outputs are a pair depends on the layout; the two largest of a head are no less.
    """
    if not rotated:
        return float(bounds.max())
    heads = np.sort(bounds.reshape(geometry.kv_heads, -1), axis=1)
    return float(np.hypot(heads[:, -1], heads[:, -2]).max())
