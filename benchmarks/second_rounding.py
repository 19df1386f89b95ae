"""Roundings of weights to each export's format: the honest one, other valid ones, wrong ones."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from second_formats import (
    E2M1,
    GROUPS,
    LINEARS,
    PARTS,
    PER_ROW,
    Export,
    NotApplicableError,
    packed,
)

FP8 = ml_dtypes.float8_e4m3fn
FP8_MAX, FP4_MAX = 448.0, 6.0
POSITIVE = E2M1[:8]
MIDDLES = (POSITIVE[1:] + POSITIVE[:-1]) / 2


def quantize(export: Export, layer: int, linear: str, weights: np.ndarray, **how: Any) -> None:
    """Stores weights in the export's format; `how` says in what way, RTN to the maximum by default.

    The pre-quant scale that lies there is kept unless `how` brings another.
    """
    prefix = export.prefix(layer, linear)
    if export.recipe == "none":
        export.put(prefix + "weight", weights.astype(ml_dtypes.bfloat16))
        return
    smoothing = export.tensors.get(prefix + "prequant_scaling_factor")
    if smoothing is not None:
        weights = weights / smoothing.astype(np.float32)
    if export.recipe == "nvfp4":
        _nvfp4(export, prefix, weights, how)
        return
    limit = _limit(export.recipe, how)
    scale = _scales(export.recipe, weights, limit, how)
    wide = _wide(export.recipe, scale, weights.shape)
    elements = _rounded(export.recipe, weights, wide, how)
    export.put(prefix + "weight", packed(export.recipe, elements))
    export.put(export.scale_name(layer, linear), _stored(export.recipe, scale, how))


def _limit(recipe: str, how: dict[str, Any]) -> float:
    if recipe.startswith("fp8"):
        return float(how.get("top", FP8_MAX))
    return float(how.get("top", 7.0 if recipe.startswith("w4") else 127.0))


def _stored(recipe: str, scale: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    found = scale.reshape(scale.shape[0], -1) if recipe in GROUPS else scale.reshape(-1)
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}.get(how.get("stored", ""), np.float32)
    return found.astype(dtype)


def _blocks(recipe: str, weights: np.ndarray) -> np.ndarray:
    if recipe in GROUPS:
        return weights.reshape(weights.shape[0], -1, GROUPS[recipe])
    return weights[:, None, :] if recipe in PER_ROW else weights.reshape(1, 1, -1)


def _wide(recipe: str, scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if recipe in GROUPS:
        return np.repeat(scale.reshape(shape[0], -1), GROUPS[recipe], axis=1)
    return scale.reshape(-1, 1)


def _scales(recipe: str, weights: np.ndarray, limit: float, how: dict[str, Any]) -> np.ndarray:
    """Returns one scale per block; `scales` chooses how the block's maximum becomes one."""
    blocks = _blocks(recipe, weights)
    largest = np.abs(blocks).max(axis=-1)
    if "percentile" in how:
        largest = np.quantile(np.abs(blocks), float(how["percentile"]), axis=-1)
    scale = np.maximum(largest, 1e-8) / limit * float(how.get("times", 1.0))
    if how.get("search"):
        scale = _searched(recipe, blocks, scale, limit, float(how["search"]))
    kind = how.get("scales")
    if kind == "pow2":
        scale = np.exp2(np.ceil(np.log2(scale)))
    elif kind == "bf16":
        scale = scale.astype(ml_dtypes.bfloat16)
    elif kind == "f16":
        scale = scale.astype(np.float16)
    return scale.astype(np.float32)


def _searched(
    recipe: str, blocks: np.ndarray, scale: np.ndarray, limit: float, least: float
) -> np.ndarray:
    """Returns the scales with the least squared error among shrunk ones."""
    best, error = scale, np.full(scale.shape, np.inf)
    for shrink in np.linspace(least, 1.0, 9):
        tried = scale * shrink
        found = _grid(recipe, blocks / tried[..., None], limit) * tried[..., None]
        new = ((found - blocks) ** 2).sum(axis=-1)
        best = np.where(new < error, tried, best)
        error = np.minimum(new, error)
    return best


def _grid(recipe: str, scaled: np.ndarray, limit: float) -> np.ndarray:
    clipped = np.clip(scaled, -limit, limit)
    if recipe.startswith("fp8"):
        return clipped.astype(np.float32).astype(FP8).astype(np.float32)
    return np.rint(clipped)


def _rounded(recipe: str, weights: np.ndarray, wide: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """Returns the elements to store, one each."""
    scaled = weights / wide
    kind = how.get("rounding", "nearest")
    if how.get("compute") == "bf16":
        scaled = scaled.astype(ml_dtypes.bfloat16).astype(np.float32)
    elif how.get("compute") == "f16":
        scaled = scaled.astype(np.float16).astype(np.float32)
    limit = _limit(recipe, how) if "clip" not in how else float(how["clip"])
    low = -limit if not how.get("low") else float(how["low"])
    if kind == "feedback":
        return _feedback(recipe, weights, wide, limit, how)
    if recipe.startswith("fp8"):
        return _fp8(scaled, limit, kind, how)
    if kind == "stochastic":
        scaled = np.floor(scaled + _random(how).random(scaled.shape, np.float32))
    elif kind == "truncate":
        scaled = np.trunc(scaled)
    elif kind == "floor":
        scaled = np.floor(scaled)
    elif kind == "away":
        scaled = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
    elif kind == "even_codes":
        scaled = np.rint(scaled / 2) * 2
    return np.clip(np.rint(scaled), low, limit).astype(np.int8)


def _random(how: dict[str, Any]) -> np.random.Generator:
    return np.random.default_rng(int(how.get("seed", 0)))


def _fp8(scaled: np.ndarray, limit: float, kind: str, how: dict[str, Any]) -> np.ndarray:
    clipped = np.clip(scaled, -limit, limit).astype(np.float32)
    if kind == "e5m2":
        return clipped.astype(ml_dtypes.float8_e5m2).astype(np.float32).astype(FP8)
    if kind in ("stochastic", "truncate"):
        step = np.exp2(np.floor(np.log2(np.maximum(np.abs(clipped), 2.0**-6))) - 3)
        dither = _random(how).random(clipped.shape, np.float32) if kind == "stochastic" else 0.0
        magnitude = np.floor(np.abs(clipped) / step + dither) * step
        clipped = (np.sign(clipped) * np.minimum(magnitude, limit)).astype(np.float32)
    return clipped.astype(FP8)


def _feedback(
    recipe: str, weights: np.ndarray, wide: np.ndarray, limit: float, how: dict[str, Any]
) -> np.ndarray:
    """GPTQ: column by column, each column's error put on the columns not yet rounded.

    The activations are random with channels of unlike size and shared directions, as real ones.
    """
    random, width = _random(how), weights.shape[1]
    mixing = random.standard_normal((width // 8, width)) * random.lognormal(0, 1, (width // 8, 1))
    inputs = random.standard_normal((2 * width, width // 8)) @ mixing / np.sqrt(width // 8)
    inputs += random.standard_normal(inputs.shape)
    inputs *= random.lognormal(0, float(how.get("spread", 0.7)), width)
    hessian = inputs.T @ inputs
    hessian[np.diag_indices(width)] += float(how.get("damping", 0.01)) * np.diag(hessian).mean()
    order = np.argsort(-np.diag(hessian)) if how.get("order") else np.arange(width)
    upper = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T.astype(np.float32)
    left, scales = weights[:, order].copy(), np.broadcast_to(wide, weights.shape)[:, order]
    found = np.empty(weights.shape, np.float32)
    for at in range(width):
        found[:, at] = _grid(recipe, left[:, at] / scales[:, at], limit)
        error = (left[:, at] - found[:, at] * scales[:, at]) / upper[at, at]
        left[:, at + 1 :] -= np.outer(error, upper[at, at + 1 :])
    undone = np.empty_like(found)
    undone[:, order] = found
    return undone.astype(FP8) if recipe.startswith("fp8") else undone.astype(np.int8)


def _nvfp4(export: Export, prefix: str, weights: np.ndarray, how: dict[str, Any]) -> None:
    if how.get("rounding") in ("feedback", "floor", "even_codes", "e5m2") or "top" in how:
        raise NotApplicableError
    blocks = weights.reshape(weights.shape[0], -1, 16)
    second = np.float32(
        how.get("global", np.abs(weights).max() / (FP4_MAX * float(how.get("block_top", FP8_MAX))))
    )
    largest = np.abs(blocks).max(axis=-1)
    scale = _block_scales(blocks, largest, second, how)
    wide = np.maximum(scale.astype(np.float32) * second, 1e-12)[..., None]
    scaled = blocks / wide
    magnitude, kind = np.abs(scaled), how.get("rounding", "nearest")
    if kind == "stochastic":
        under = np.clip(np.searchsorted(POSITIVE, magnitude, "right") - 1, 0, 6)
        gap = POSITIVE[under + 1] - POSITIVE[under]
        up = _random(how).random(magnitude.shape) < (magnitude - POSITIVE[under]) / gap
        index = under + up
    elif kind == "truncate":
        index = np.clip(np.searchsorted(POSITIVE, magnitude, "right") - 1, 0, 7)
    else:
        side = "right" if kind == "away" else "left"
        index = np.searchsorted(MIDDLES, magnitude, side)
    elements = (index | ((scaled < 0) << 3)).astype(np.uint8).reshape(weights.shape)
    export.put(prefix + "weight", packed("nvfp4", elements))
    export.put(prefix + "weights_scaling_factor", scale)
    export.put(prefix + "weights_scaling_factor_2", np.array(second, np.float32))


def _block_scales(
    blocks: np.ndarray, largest: np.ndarray, second: np.float32, how: dict[str, Any]
) -> np.ndarray:
    """Returns the E4M3 scale of each block; `search` also tries maxima at 4 instead of 6."""
    plain = (largest * float(how.get("times", 1.0)) / FP4_MAX / second).astype(np.float32)
    plain = np.clip(plain, 2.0**-9, FP8_MAX)
    if how.get("scales") == "pow2":
        plain = np.exp2(np.ceil(np.log2(plain))).clip(2.0**-9, 256)
    best = plain.astype(FP8)
    if not how.get("search"):
        return best
    error = np.full(largest.shape, np.inf)
    for shrink in (float(how["search"]), 1.0, 1.5):
        tried = np.clip(plain * shrink, 2.0**-9, FP8_MAX).astype(np.float32).astype(FP8)
        wide = tried.astype(np.float32)[..., None] * second
        found = POSITIVE[np.searchsorted(MIDDLES, np.abs(blocks) / wide)] * wide
        new = ((found - np.abs(blocks)) ** 2).sum(axis=-1)
        best = np.where(new < error, tried, best)
        error = np.minimum(new, error)
    return best


def requantized(export: Export, layers: list[int], linears: list[str], **how: Any) -> None:
    """Rounds the source's weights anew."""
    for layer in layers:
        for linear in linears or LINEARS:
            quantize(export, layer, linear, export.weights(layer, linear), **how)


def changed(export: Export, layer: int, part: str, weights: np.ndarray) -> None:
    """Rounds a part's new weights together with what its linear holds besides."""
    linear, start, end, _ = PARTS[part]
    whole = next(name for name in LINEARS if PARTS[name][0] == linear)
    found = export.weights(layer, whole)
    found[start:end] = weights
    quantize(export, layer, whole, found)
