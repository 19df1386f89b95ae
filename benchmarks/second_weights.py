"""The step `weights`: a source changed before an honest rounding, as a wrong converter would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from second_edits import FP8, by_name, layered
from second_formats import HEAD, LAYERS, Export
from second_rounding import changed


def weights(x: Export, layers: Any, part: str, how: str, **more: Any) -> None:
    """Changes weights as they would be before an honest rounding."""
    for layer in layered(layers):
        changed(x, layer, part, WEIGHT_MAPS[how](x, x.weights(layer, part), layer, part, **more))


def _random(seed: int, layer: int) -> np.random.Generator:
    return np.random.default_rng(seed * 1000 + layer)


def _noise(x: Export, w: np.ndarray, n: int, p: str, share: float, seed: int = 0) -> np.ndarray:
    noise = _random(seed, n).standard_normal(w.shape, np.float32)
    return w + noise * np.float32(share * np.linalg.norm(w) / np.linalg.norm(noise))


def _lora(
    x: Export, w: np.ndarray, n: int, p: str, share: float, rank: int = 8, seed: int = 0
) -> np.ndarray:
    random = _random(seed, n)
    delta = random.standard_normal((w.shape[0], rank)) @ random.standard_normal((rank, w.shape[1]))
    return (w + delta * share * np.linalg.norm(w) / np.linalg.norm(delta)).astype(np.float32)


def _low_rank(x: Export, w: np.ndarray, n: int, p: str, keep: float) -> np.ndarray:
    u, s, v = np.linalg.svd(w, full_matrices=False)
    kept = int(len(s) * keep)
    return (u[:, :kept] * s[:kept]) @ v[:kept]


def _pruned(x: Export, w: np.ndarray, n: int, p: str, share: float = 0.0) -> np.ndarray:
    if share:
        return np.where(np.abs(w) < np.quantile(np.abs(w), share), 0, w)
    quads = w.reshape(w.shape[0], -1, 4)
    rank = np.argsort(np.argsort(-np.abs(quads), -1), -1)
    return np.where(rank < 2, quads, 0).reshape(w.shape).astype(np.float32)


def _clipped(x: Export, w: np.ndarray, n: int, p: str, sigmas: float) -> np.ndarray:
    limit = sigmas * w.std()
    return np.clip(w, -limit, limit)


def _hadamard(x: Export, w: np.ndarray, n: int, p: str) -> np.ndarray:
    size = 64
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    h /= np.sqrt(size)
    return (w.reshape(w.shape[0], -1, size) @ h).reshape(w.shape).astype(np.float32)


def _gaussian(x: Export, w: np.ndarray, n: int, p: str, seed: int = 0) -> np.ndarray:
    return (_random(seed, n).standard_normal(w.shape) * w.std()).astype(np.float32)


def _other(x: Export, w: np.ndarray, n: int, p: str, by: int = 1) -> np.ndarray:
    return x.weights((n + by) % LAYERS, p)


def _head_order(x: Export, w: np.ndarray, n: int, p: str, order: list[int]) -> np.ndarray:
    if p == "o":
        return np.ascontiguousarray(w.reshape(w.shape[0], -1, HEAD)[:, order]).reshape(w.shape)
    return np.ascontiguousarray(w.reshape(-1, HEAD, w.shape[1])[order]).reshape(w.shape)


def _interleaved(x: Export, w: np.ndarray, n: int, p: str, heads: list[int] | None = None) -> Any:
    out = w.reshape(-1, HEAD, w.shape[1]).copy()
    order = np.arange(HEAD).reshape(2, HEAD // 2).T.reshape(-1)
    which = heads if heads is not None else range(len(out))
    for head in which:
        out[head] = out[head][order]
    return out.reshape(w.shape)


def _window(
    x: Export,
    w: np.ndarray,
    n: int,
    p: str,
    do: str,
    rows: list[int] | None = None,
    cols: list[int] | None = None,
    by: float = 0.0,
) -> np.ndarray:
    out = w.copy()
    at = (slice(*rows) if rows else slice(None), slice(*cols) if cols else slice(None))
    picked = out[at]
    turned = {
        "negate": lambda: -picked,
        "zero": lambda: np.zeros_like(picked),
        "gain": lambda: picked * np.float32(by),
        "reverse_rows": picked[::-1].copy,
        "reverse_cols": picked[:, ::-1].copy,
        "mean": lambda: np.full_like(picked, picked.mean()),
        "add": lambda: picked + np.float32(by * w.std()),
        "roll_rows": lambda: np.roll(picked, 1, 0),
        "roll_cols": lambda: np.roll(picked, 1, 1),
    }
    out[at] = turned[do]()
    return out


def _rotated_pairs(x: Export, w: np.ndarray, n: int, p: str, angle: float, seed: int = 0) -> Any:
    """Turns rotary pairs of q and k alike by one angle each: the scores stay what they are."""
    heads = w.reshape(-1, HEAD, w.shape[1])
    turn = angle * np.random.default_rng(seed).standard_normal(HEAD // 2).astype(np.float32)
    c, s = np.cos(turn)[None, :, None], np.sin(turn)[None, :, None]
    first, second = heads[:, : HEAD // 2], heads[:, HEAD // 2 :]
    return np.concatenate([first * c - second * s, first * s + second * c], 1).reshape(w.shape)


WEIGHT_MAPS: dict[str, Callable[..., np.ndarray]] = {
    "noise": _noise,
    "lora": _lora,
    "low_rank": _low_rank,
    "pruned": _pruned,
    "clipped": _clipped,
    "hadamard": _hadamard,
    "gaussian": _gaussian,
    "other_layer": _other,
    "heads": _head_order,
    "interleaved": _interleaved,
    "window": _window,
    "rotated": _rotated_pairs,
    "transpose": lambda x, w, n, p: np.ascontiguousarray(w.T),
    "gain": lambda x, w, n, p, by: w * np.float32(by),
    "fp8_first": lambda x, w, n, p: w.astype(FP8).astype(np.float32),
    "columns": lambda x, w, n, p, seed=0: w[:, _random(seed, n).permutation(w.shape[1])],
    "rows": lambda x, w, n, p, seed=0: w[_random(seed, 0).permutation(w.shape[0])],
    "columns_same": lambda x, w, n, p, seed=0: w[:, _random(seed, 0).permutation(w.shape[1])],
    "rank_one_less": lambda x, w, n, p: w - np.outer(w.mean(1), np.ones(w.shape[1], np.float32)),
}


STEPS = by_name(weights)
