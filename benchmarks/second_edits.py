"""What is done to an export in a case of the second set: steps by name, each a small edit.

A step takes the export and its own arguments; `layers` is a list or "all". Steps that mean
nothing for an export raise NotApplicableError, and the case is not run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
from second_formats import (
    GROUPS,
    LAYERS,
    LINEARS,
    PARTS,
    Export,
    NotApplicableError,
    codes,
    put_codes,
    unpacked,
)
from second_rounding import quantize, requantized

Step = Callable[..., None]
FP8 = ml_dtypes.float8_e4m3fn


def by_name(*steps: Step) -> dict[str, Step]:
    """Returns steps under their own names, as cases call them."""
    return {step.__name__: step for step in steps}


def layered(layers: Any) -> list[int]:
    """Returns layers as numbers."""
    return list(range(LAYERS)) if layers == "all" else list(layers)


def need(condition: object) -> None:
    """Stops a step that does not apply."""
    if not condition:
        raise NotApplicableError


def _scale_places(
    x: Export, layers: Any, part: str
) -> Iterator[tuple[str, np.ndarray, slice | None]]:
    """Yields the scales of a part: name, values, and which rows are its own (None: all)."""
    whole = PARTS[part][3] == PARTS["qkv"][3] or not PARTS[part][0].endswith("qkv")
    for layer in layered(layers):
        name = x.scale_name(layer, part)
        found = x.tensors[name]
        rows = slice(PARTS[part][1], PARTS[part][2]) if found.ndim == 2 or found.size > 1 else None
        need(rows is not None or whole)
        yield name, found, rows


def scale(
    x: Export,
    layers: Any,
    part: str,
    factor: float | None = None,
    value: float | None = None,
    rows: list[int] | None = None,
    groups: list[int] | None = None,
) -> None:
    """Multiplies or sets weight scales: of a part, of rows of it, of groups of those rows."""
    for name, found, own in _scale_places(x, layers, part):
        need(groups is None or x.recipe in GROUPS)
        if x.recipe == "nvfp4" and rows is None and groups is None and factor is not None:
            need(part in LINEARS)
            second = x.tensors[name + "_2"]
            x.put(name + "_2", (second * np.float32(factor)).astype(np.float32))
            continue
        need(own is not None or rows is None)
        new = found.astype(np.float32).copy()
        view = new if own is None else new[own]
        if rows is not None:
            view = view[rows[0] : rows[1]]
        if groups is not None:
            view = view[:, groups[0] : groups[1]]
        if factor is not None:
            view *= np.float32(factor)
        else:
            view[...] = np.float32(value if value is not None else np.nan)
        x.put(name, new.astype(found.dtype))


def scale_map(x: Export, layers: Any, part: str, how: str, **more: Any) -> None:
    """Rearranges weight scales; `how` names a function below."""
    for name, found, own in _scale_places(x, layers, part):
        new = found.copy()
        rows = slice(None) if own is None else own
        new[rows] = SCALE_MAPS[how](x, found[rows], name=name, **more)
        x.put(name, new)


def _pow2(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    return np.exp2(np.ceil(np.log2(s.astype(np.float32)))).astype(s.dtype)


def _e4m3(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    unit = np.exp2(np.floor(np.log2(448 / s.max())))
    return (s * unit).astype(FP8).astype(s.dtype) / unit


def _roll(x: Export, s: np.ndarray, axis: int = 0, by: int = 1, **_: Any) -> np.ndarray:
    need(s.ndim > axis and s.shape[axis] > 1)
    return np.roll(s, by, axis)


def _transpose(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.ndim == 2)
    return np.ascontiguousarray(s).reshape(s.shape[1], s.shape[0]).T


def _shuffle(x: Export, s: np.ndarray, seed: int = 0, **_: Any) -> np.ndarray:
    need(s.shape[0] > 1)
    return s[np.random.default_rng(seed).permutation(s.shape[0])]


def _merge(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.ndim == 2)
    pairs = s.astype(np.float32)[:, : s.shape[1] // 2 * 2].reshape(s.shape[0], -1, 2).max(-1)
    out = s.astype(np.float32).copy()
    out[:, : pairs.shape[1] * 2] = np.repeat(pairs, 2, axis=1)
    return out.astype(s.dtype)


def _swap_pairs(
    x: Export, s: np.ndarray, like: bool = True, count: int = 1, **_: Any
) -> np.ndarray:
    """Swaps the scales of rows (groups of a row) that are most, or least, like each other."""
    need(s.size > 1)
    out = s.copy()
    flat = out if s.ndim == 1 else out[min(11, s.shape[0] - 1)]
    order = np.argsort(flat.astype(np.float32))
    for n in range(count):
        a, b = (order[2 * n], order[2 * n + 1]) if like else (order[n], order[-1 - n])
        flat[a], flat[b] = flat[b].copy(), flat[a].copy()
    return out


def _first_group(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.ndim == 2)
    return np.broadcast_to(s[:, :1], s.shape)


def _tail_group(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.ndim == 2)
    return np.concatenate([s[:, :-1], s[:, -2:-1]], axis=1)


def _max_row(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.ndim == 1 and s.size > 1)
    return np.full_like(s, s.max())


def _byteswap(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    need(s.dtype.itemsize == 4)
    return s.byteswap()


def _sibling(x: Export, s: np.ndarray, name: str = "", old: str = "", new: str = "") -> np.ndarray:
    other = x.tensors[name.replace(old, new)]
    need(other.shape == s.shape)
    return other


def _swizzle(x: Export, s: np.ndarray, **_: Any) -> np.ndarray:
    """The 128 x 4 tiles of a block-scaled GEMM, stored where rows are expected."""
    need(x.recipe == "nvfp4" and s.shape[0] % 128 == 0)
    tiles = s.reshape(s.shape[0] // 128, 4, 32, s.shape[1] // 4, 4).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(tiles).reshape(s.shape)


SCALE_MAPS: dict[str, Callable[..., np.ndarray]] = {
    "reciprocal": lambda x, s, **_: (
        (1 / s.astype(np.float32)).clip(-448, 448).astype(s.dtype) if x.recipe == "nvfp4" else 1 / s
    ),
    "pow2": _pow2,
    "e4m3": _e4m3,
    "bf16": lambda x, s, **_: s.astype(ml_dtypes.bfloat16).astype(s.dtype),
    "roll": _roll,
    "reverse": lambda x, s, **_: s[:, ::-1] if s.ndim == 2 else s[::-1],
    "transpose": _transpose,
    "shuffle": _shuffle,
    "merge": _merge,
    "swap": _swap_pairs,
    "first_group": _first_group,
    "tail_group": _tail_group,
    "max_row": _max_row,
    "byteswap": _byteswap,
    "sibling": _sibling,
    "swizzle": _swizzle,
    "negate": lambda x, s, **_: (-s.astype(np.float32)).astype(s.dtype),
}


def scale_cast(x: Export, layers: Any, dtype: str) -> None:
    """Stores the weight scales of whole layers in another type, its elements unchanged."""
    need(x.recipe in ("w4a16", "w4a16_awq", "w8a16", "w8a8_sq"))
    kind = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype]
    for layer in layered(layers):
        for linear in LINEARS:
            name = x.scale_name(layer, linear)
            x.put(name, x.tensors[name].astype(kind))


def drop(x: Export, name: str, layers: Any = ()) -> None:
    """Leaves tensors out; `{layer}` stands for each of the layers."""
    for layer in layered(layers) if layers else [0]:
        full = name.format(layer=layer)
        need(full in x.tensors)
        del x.tensors[full]
        x.touched.add(full)


def elements(
    x: Export,
    layers: Any,
    part: str,
    how: str,
    rows: list[int] | None = None,
    cols: list[int] | None = None,
    **more: Any,
) -> None:
    """Changes stored elements of a part, or of a window of it, and leaves the scales."""
    for layer in layered(layers):
        found = codes(x, layer, part).copy()
        window = (slice(*rows) if rows else slice(None), slice(*cols) if cols else slice(None))
        found[window] = ELEMENT_MAPS[how](x, found[window], **more)
        put_codes(x, layer, part, found)


def _add(x: Export, c: np.ndarray, by: int = 1, **_: Any) -> np.ndarray:
    need(c.dtype == np.int8)
    low, high = (-8, 7) if x.recipe.startswith("w4") else (-127, 127)
    return np.clip(c.astype(np.int16) + by, low, high).astype(np.int8)


def _offset_binary(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    need(c.dtype == np.int8)
    if x.recipe.startswith("w4"):
        return ((((c.view(np.uint8) & 15) ^ 8) << 4).view(np.int8)) >> 4
    return (c.view(np.uint8) ^ 0x80).view(np.int8)


def _nibbles(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    need(x.recipe in GROUPS)
    out = c.copy()
    if x.recipe == "nvfp4":
        out[:, 0::2], out[:, 1::2] = c[:, 1::2], c[:, 0::2]
    else:
        out[0::2], out[1::2] = c[1::2], c[0::2]
    return out


def _negative(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    return c ^ 8 if x.recipe == "nvfp4" else -c


def _absolute(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    return c & 7 if x.recipe == "nvfp4" else np.abs(c)


def _no_lowest(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    if c.dtype == FP8:
        return (c.view(np.uint8) & 0xFE).view(FP8)
    need(c.dtype != ml_dtypes.bfloat16)
    return c & ~1 if c.dtype == np.int8 else c & np.uint8(0xFE)


def _permute(
    x: Export, c: np.ndarray, within: int = 0, axis: int = 1, seed: int = 0, **_: Any
) -> np.ndarray:
    """Puts columns (rows) in another order, only inside blocks of `within` if given."""
    count = c.shape[axis]
    size = within or count
    need(count % size == 0)
    random = np.random.default_rng(seed)
    order = np.concatenate([b + random.permutation(size) for b in range(0, count, size)])
    return np.take(c, order, axis)


def _swap(x: Export, c: np.ndarray, a: int = 0, b: int = 1, axis: int = 1, **_: Any) -> np.ndarray:
    order = np.arange(c.shape[axis])
    order[a], order[b] = b, a
    return np.take(c, order, axis)


def _ordered(x: Export, c: np.ndarray, order: tuple[int, ...] = (), **_: Any) -> np.ndarray:
    count = len(order)
    need(c.shape[0] % count == 0)
    return np.ascontiguousarray(c.reshape(-1, count, c.shape[1])[:, list(order)]).reshape(c.shape)


def _other_axis(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    """Pairs of inputs packed where pairs of outputs are expected, or the reverse."""
    need(x.recipe in GROUPS)
    flat = c.reshape(-1, 2)
    if x.recipe == "nvfp4":
        return np.ascontiguousarray(c.reshape(c.shape[0] // 2, 2, -1).transpose(0, 2, 1)).reshape(
            c.shape
        )
    out = np.empty_like(c)
    half = flat.reshape(c.shape[0] // 2, c.shape[1], 2)
    out[0::2], out[1::2] = half[..., 0], half[..., 1]
    return out


def _stuck(x: Export, c: np.ndarray, bit: int = 0, on: bool = True, **_: Any) -> np.ndarray:
    raw = np.ascontiguousarray(c).view(np.uint8)
    raw = raw | np.uint8(1 << bit) if on else raw & np.uint8(~(1 << bit) & 0xFF)
    if x.recipe.startswith("w4"):
        return (raw << 4).view(np.int8) >> 4
    return raw.view(c.dtype)


def _e5m2_bytes(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    need(c.dtype == FP8)
    raw = c.astype(np.float32).astype(ml_dtypes.float8_e5m2).view(np.uint8)
    raw = np.where((raw & 0x7F) == 0x7F, raw & 0xFE, raw)
    return raw.view(FP8)


def _shifted(x: Export, c: np.ndarray, by: int = 1, axis: int = 0, **_: Any) -> np.ndarray:
    return np.roll(c, by, axis)


def _fp8_nan(x: Export, c: np.ndarray, **_: Any) -> np.ndarray:
    need(c.dtype == FP8)
    out = c.copy().view(np.uint8)
    out.reshape(-1)[0] = 0x7F
    return out.view(FP8)


ELEMENT_MAPS: dict[str, Callable[..., np.ndarray]] = {
    "add": _add,
    "offset_binary": _offset_binary,
    "nibbles": _nibbles,
    "negate": _negative,
    "absolute": _absolute,
    "no_lowest_bit": _no_lowest,
    "permute": _permute,
    "swap": _swap,
    "ordered": _ordered,
    "other_axis": _other_axis,
    "stuck": _stuck,
    "e5m2_bytes": _e5m2_bytes,
    "shift": _shifted,
    "nan": _fp8_nan,
    "zero": lambda x, c, **_: np.zeros_like(c),
    "repeat": lambda x, c, **_: np.broadcast_to(c[:1], c.shape),
    "halve": lambda x, c, **_: np.concatenate([c[: c.shape[0] // 2]] * 2),
    "transpose": lambda x, c, **_: np.ascontiguousarray(c.T),
}


def rounded(x: Export, layers: Any, linears: list[str] | None = None, **how: Any) -> None:
    """Rounds the source's own weights anew; see `second_rounding`."""
    need(x.recipe != "none")
    if how.get("search") or "top" in how or "low" in how:
        need(x.recipe != "nvfp4" or "search" in how)
    requantized(x, layered(layers), linears or [], **how)


def fused_apart(x: Export, layers: Any, linear: str = "qkv", pick: str = "max") -> None:
    """Rounds the parts of a fused linear by scales of their own, and writes one for all."""
    need(x.recipe in ("fp8", "nvfp4"))
    parts = ("q", "k", "v") if linear == "qkv" else ("gate", "up")
    for layer in layered(layers):
        scales, found = [], []
        for part in parts:
            _apart(x, layer, part, scales, found)
        chosen = max(scales) if pick == "max" else scales[int(pick)]
        for part, own in zip(parts, found, strict=True):
            put_codes(x, layer, part, own[0])
            name = x.scale_name(layer, part)
            if own[1] is not None:
                new = x.tensors[name].copy()
                new[PARTS[part][1] : PARTS[part][2]] = own[1]
                x.put(name, new)
            kept = name + "_2" if x.recipe == "nvfp4" else name
            x.put(kept, np.full_like(x.tensors[kept], chosen))


def _apart(x: Export, layer: int, part: str, scales: list[float], found: list[Any]) -> None:
    """Rounds one part alone, in an export of its own."""
    alone = Export(x.recipe, x.config, {}, x.source)
    quantize(alone, layer, part, x.weights(layer, part))
    prefix = alone.prefix(layer, part)
    stored = unpacked(x.recipe, alone.tensors[alone.prefix(layer, part) + "weight"])
    kind = "weights_scaling_factor_2" if x.recipe == "nvfp4" else "weights_scaling_factor"
    scales.append(float(alone.tensors[prefix + kind].reshape(-1)[0]))
    blocks = alone.tensors[prefix + "weights_scaling_factor"] if x.recipe == "nvfp4" else None
    found.append((stored, blocks))


STEPS = by_name(scale, scale_map, scale_cast, drop, elements, rounded, fused_apart)
