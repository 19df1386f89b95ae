"""Steps on what is no weight of a linear: vectors, smoothing, KV cache, config, the source."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from second_edits import by_name, layered, need
from second_formats import (
    LAYERS,
    LINEARS,
    PARTS,
    Export,
)
from second_rounding import quantize

BF16 = ml_dtypes.bfloat16
NAMED = {
    "embedding": "transformer.vocab_embedding.weight",
    "head": "lm_head.weight",
    "final": "transformer.ln_f.weight",
    "input": "transformer.layers.{layer}.input_layernorm.weight",
    "post": "transformer.layers.{layer}.post_layernorm.weight",
}
KV_AMAX = {
    "k": [
        10.658, 15.904, 17.151, 13.923, 14.85, 15.051, 19.024, 16.266, 18.477, 17.75, 20.741,
        20.569, 15.847, 18.236, 15.984, 18.368, 16.856, 14.778, 23.886, 17.852, 13.782, 14.135,
        16.598, 17.2, 17.118, 18.413, 18.152, 19.692, 17.072, 13.916,
    ],
    "v": [
        0.602, 3.139, 3.215, 3.815, 4.384, 3.763, 4.022, 5.042, 5.48, 4.837, 3.948, 4.963, 4.151,
        3.566, 4.697, 5.722, 4.253, 5.311, 7.283, 5.938, 6.024, 7.049, 6.64, 11.779, 13.016, 9.598,
        10.807, 8.521, 15.075, 11.736,
    ],
}  # fmt: skip
"""Largest |K| (rotated) and |V| by layer: a numpy forward pass over six prompts of `smoke`."""


def vector(x: Export, what: str, how: str, layers: Any = (0,), **more: Any) -> None:
    """Changes the embedding, the head or a norm; `rows` picks rows (elements of a norm)."""
    for layer in layered(layers):
        name = NAMED[what].format(layer=layer)
        old = x.tensors[name]
        new = old.astype(np.float32).copy()
        rows = more.get("rows")
        at = slice(*rows) if rows else slice(None)
        new[at] = _vector(x, new, at, how, layer, {**more, "what": what})
        x.put(name, new.astype(old.dtype))


def _vector(x: Export, v: np.ndarray, at: slice, how: str, layer: int, more: Any) -> Any:
    picked, random = v[at], np.random.default_rng(int(more.get("seed", 0)))
    if how == "gain":
        return picked * np.float32(more["by"])
    if how == "value":
        return np.float32(more["by"])
    if how == "shift":
        return np.roll(picked, int(more.get("by", 1)), 0)
    if how == "swap":
        return picked[::-1]
    if how == "noise":
        return picked + random.standard_normal(picked.shape) * float(more["by"]) * v.std()
    if how == "fp8":
        scale = np.abs(v).max() / 448
        return (picked / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    if how == "int8_rows":
        scale = np.abs(picked).max(-1, keepdims=True) / 127
        return np.rint(picked / scale) * scale
    if how == "int4_groups":
        blocks = picked.reshape(len(picked), -1, 64)
        scale = np.abs(blocks).max(-1, keepdims=True) / 7
        return (np.rint(blocks / scale) * scale).reshape(picked.shape)
    if how == "mean":
        return np.broadcast_to(v.mean(0), picked.shape)
    if how == "repeat":
        return np.broadcast_to(picked[:1], picked.shape)
    if how == "add":
        return picked + np.float32(more["by"])
    if how == "other_layer":
        name = NAMED[more["what"]].format(layer=(layer + int(more.get("by", 0))) % LAYERS)
        return x.tensors[name].astype(np.float32)[at]
    if how == "f16_bytes":
        return picked.astype(BF16).view(np.float16).astype(np.float32)
    if how == "sign":
        return -picked
    raise KeyError(how)


def activation(
    x: Export, layers: Any, how: str, linears: list[str] | None = None, **more: Any
) -> None:
    """Changes static activation scales."""
    for layer in layered(layers):
        for linear in linears or LINEARS:
            name = x.prefix(layer, linear) + "activation_scaling_factor"
            need(name in x.tensors)
            old = x.tensors[name]
            if how == "drop":
                del x.tensors[name]
                x.touched.add(name)
                continue
            x.put(name, _activation(x, old, name, how, layer, more).astype(old.dtype))


def _activation(x: Export, old: np.ndarray, name: str, how: str, layer: int, more: Any) -> Any:
    if how == "gain":
        return old * np.float32(more["by"])
    if how == "value":
        return np.full_like(old, more["by"])
    if how == "reciprocal":
        return 1 / old
    if how == "pow2":
        return np.exp2(np.ceil(np.log2(old)))
    if how == "of_layer":
        return x.tensors[name.replace(f"layers.{layer}.", f"layers.{more['of']}.")]
    if how == "of_linear":
        mine, other = name.split(".")[3:5], PARTS[more["of"]][0]
        return x.tensors[name.replace(".".join(mine), other)]
    if how == "spread":
        # Inputs that are shared keep a shared factor.
        kind = {"fc": 1, "gate": 1, "qkv": 2, "dense": 3, "proj": 4}[name.split(".")[4]]
        random = np.random.default_rng([layer, kind, int(more.get("seed", 0))])
        return old * np.float32(np.exp(random.standard_normal() * float(more["by"])))
    raise KeyError(how)


def smoothing(
    x: Export, layers: Any, how: str, linears: list[str] | None = None, **more: Any
) -> None:
    """Changes pre-quant scales; weights are rounded anew only where `how` says `honest`."""
    for layer in layered(layers):
        for linear in linears or LINEARS:
            name = x.prefix(layer, linear) + "prequant_scaling_factor"
            need(name in x.tensors)
            old = x.tensors[name].astype(np.float32)
            new = _smoothing(x, old, name, how, layer, more)
            x.put(name, new.astype(x.tensors[name].dtype))
            if more.get("honest"):
                _follow(x, name, old)
                quantize(x, layer, linear, x.weights(layer, linear))


def _follow(x: Export, name: str, old: np.ndarray) -> None:
    """Has a static activation scale cover what the new factors make of each channel's maximum.

    SmoothQuant with alpha 1, as exported here, brings every channel's maximum to 1.
    """
    scale = name.replace("prequant_", "activation_")
    if scale in x.tensors:
        rise = (x.tensors[name].astype(np.float32) / old).max()
        x.put(scale, (x.tensors[scale] * rise).astype(np.float32))


def _smoothing(x: Export, s: np.ndarray, name: str, how: str, layer: int, more: Any) -> Any:
    at = slice(*more["cols"]) if "cols" in more else slice(None)
    new = s.copy()
    if how == "gain":
        new[at] = s[at] * np.float32(more["by"])
    elif how == "value":
        new[at] = np.float32(more["by"])
    elif how == "power":
        new[at] = s[at] ** np.float32(more["by"])
    elif how == "roll":
        new = np.roll(s, int(more.get("by", 1)))
    elif how == "reverse":
        new[at] = s[at][::-1]
    elif how == "of_linear":
        mine, other = ".".join(name.split(".")[3:5]), PARTS[more["of"]][0]
        new = x.tensors[name.replace(mine, other)].astype(np.float32)
    elif how == "of_layer":
        other_layer = (layer + int(more["by"])) % LAYERS
        new = x.tensors[name.replace(f"layers.{layer}.", f"layers.{other_layer}.")]
        new = new.astype(np.float32)
    elif how == "clip":
        new = np.minimum(s, np.float32(more["by"]))
    elif how == "f16_bytes":
        new = s.astype(BF16).view(np.float16).astype(np.float32)
    elif how == "by_weight":
        # AWQ's duo scaling: channels whose weights are small are given less.
        linear = next(p for p in LINEARS if PARTS[p][0] == ".".join(name.split(".")[3:5]))
        size = np.abs(x.weights(layer, linear)).mean(0)
        new = s * (size / size.mean()) ** np.float32(more["by"])
    elif how == "mean_pair":
        other = x.tensors[name.replace(".fc.", ".gate.")].astype(np.float32)
        new = (s + other) / 2
    elif how == "swap_like":
        order = np.argsort(s)
        new[order[0::2]], new[order[1::2]] = s[order[1::2]], s[order[0::2]]
    else:
        raise KeyError(how)
    return new


def fold(x: Export, layers: Any, where: str, weights: bool = True, keep: bool = False) -> None:
    """Moves the pre-quant scale of what follows a norm into the norm, as ModelOpt can.

    `weights` says whether the linears are rounded for it, `keep` whether the scale also stays.
    """
    linears = {"input": ("qkv",), "post": ("gate", "up")}[where]
    for layer in layered(layers):
        name = x.prefix(layer, linears[0]) + "prequant_scaling_factor"
        need(name in x.tensors)
        shared = x.tensors[name].astype(np.float32)
        ones = np.ones_like(shared).astype(BF16)
        norm = NAMED[where].format(layer=layer)
        x.put(norm, (x.tensors[norm].astype(np.float32) * shared).astype(BF16))
        for linear in linears:
            own = x.prefix(layer, linear) + "prequant_scaling_factor"
            x.put(own, shared.astype(BF16) if weights else ones)
            quantize(x, layer, linear, x.weights(layer, linear))
            if not keep:
                x.put(own, ones)


def kv(x: Export, algo: str, how: str = "real", layers: Any = (), by: float = 1.0) -> None:
    """Gives the checkpoint KV-cache scales as ModelOpt writes them, then changes some."""
    limit = {"FP8": 448.0, "INT8": 127.0}[algo]
    x.config["quantization"]["kv_cache_quant_algo"] = algo
    for layer in range(LAYERS):
        real = max(KV_AMAX["k"][layer], KV_AMAX["v"][layer]) / limit
        if algo == "FP8" and how != "unclamped":
            real = max(real, 1.0)
        x.put(_kv_name(layer), np.array([real], np.float32))
    for layer in layered(layers):
        name = _kv_name(layer)
        old = x.tensors[name]
        if how == "drop":
            del x.tensors[name]
        elif how == "reciprocal":
            x.put(name, 1 / old)
        elif how == "value":
            x.put(name, np.array([by], np.float32))
        elif how == "shape":
            x.put(name, np.repeat(old, 3))
        elif how in ("gain", "unclamped"):
            x.put(name, old * np.float32(by))
        elif how == "of_v":
            x.put(name, np.array([KV_AMAX["v"][layer] / limit], np.float32))
        else:
            raise KeyError(how)


def _kv_name(layer: int) -> str:
    return f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"


def config(x: Export, put: dict[str, Any] | None = None, leave: list[str] | None = None) -> None:
    """Sets or leaves out fields of the checkpoint's config; a dot goes into an object."""
    _fields(x.config, put, leave)


def _fields(document: dict[str, Any], put: Any, leave: Any) -> None:
    for path, value in (put or {}).items():
        *parents, last = path.split(".")
        inner = document
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    for path in leave or []:
        *parents, last = path.split(".")
        inner = document
        for parent in parents:
            inner = inner[parent]
        need(last in inner)
        del inner[last]


def source(
    x: Export,
    put: dict[str, Any] | None = None,
    leave: list[str] | None = None,
    generation: dict[str, Any] | None = None,
    files: str | None = None,
) -> None:
    """Has the checkpoint judged against a source whose own documents say this."""
    _fields(x.source_config, put, leave)
    x.source_edits.append({"generation": generation, "files": files})


def exchange(x: Export, a: int, b: int, parts: list[str] | None = None, copy: bool = False) -> None:
    """Exchanges two layers (or linears of theirs), or copies the second over the first."""
    names = [n for n in x.tensors if n.startswith(f"transformer.layers.{a}.")]
    if parts:
        names = [n for n in names if any(f".{PARTS[p][0]}." in n for p in parts)]
    for name in names:
        other = name.replace(f"layers.{a}.", f"layers.{b}.")
        first, second = x.tensors[name], x.tensors[other]
        x.put(name, second)
        if not copy:
            x.put(other, first)


def siblings(x: Export, layers: Any, a: str = "gate", b: str = "up") -> None:
    """Exchanges two linears of one layer that have one shape."""
    for layer in layered(layers):
        mine, other = x.prefix(layer, a), x.prefix(layer, b)
        for name in [n for n in x.tensors if n.startswith(mine)]:
            twin = name.replace(mine, other)
            first, second = x.tensors[name], x.tensors[twin]
            x.put(name, second)
            x.put(twin, first)


def unquantized(x: Export, layers: Any, part: str) -> None:
    """Leaves a linear as the source has it, without scales."""
    need(x.recipe != "none")
    for layer in layered(layers):
        prefix = x.prefix(layer, part)
        for name in [n for n in x.tensors if n.startswith(prefix)]:
            del x.tensors[name]
        x.put(prefix + "weight", x.weights(layer, part).astype(BF16))


def bare_fp8(x: Export, layers: Any, part: str) -> None:
    """Casts weights to FP8 without a scale, and says that the scale is 1."""
    need(x.recipe == "fp8")
    for layer in layered(layers):
        cast = x.weights(layer, part).astype(ml_dtypes.float8_e4m3fn)
        x.put(x.prefix(layer, part) + "weight", cast)
        x.put(x.scale_name(layer, part), np.ones(1, np.float32))


def raw(x: Export, tensor: str, start: int, count: int, how: str, seed: int = 0) -> None:
    """Damages bytes of a tensor as it is stored."""
    old = x.tensors[tensor]
    data = np.ascontiguousarray(old).view(np.uint8).reshape(-1).copy()
    begin = start if start >= 0 else data.size + start
    window = slice(begin, begin + count)
    if how == "zero":
        data[window] = 0
    elif how == "flip":
        data[window] ^= np.uint8(1 << (seed % 8))
    elif how == "random":
        data[window] = np.random.default_rng(seed).integers(0, 256, count, np.uint8)
    elif how == "before":
        data[window] = data[begin - count : begin]
    elif how == "shift":
        data[window] = np.roll(data[window], 1)
    x.put(tensor, data.view(old.dtype).reshape(old.shape))


def file(x: Export, metadata: Any = None, order: str = "", padding: int = 0) -> None:
    """Writes the same tensors in another safetensors file."""
    if metadata:
        x.metadata = metadata
    if order == "sorted":
        x.tensors = dict(sorted(x.tensors.items()))
    elif order == "reversed":
        x.tensors = dict(reversed(list(x.tensors.items())))
    x.padding = padding


def add(x: Export, name: str, value: list[float] | float, dtype: str = "F32") -> None:
    """Adds a tensor."""
    kind = {"F32": np.float32, "BF16": BF16}[dtype]
    x.put(name, np.asarray(value, np.float32).astype(kind))


STEPS = by_name(
    vector,
    activation,
    smoothing,
    fold,
    kv,
    config,
    source,
    exchange,
    siblings,
    unquantized,
    bare_fp8,
    raw,
    file,
    add,
)
