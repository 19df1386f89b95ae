"""Steps that split a checkpoint over ranks as converters do, and spoil what one rank holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from second_edits import by_name, layered, need
from second_formats import LAYERS, WIDTH, Export, packed, unpacked


def split(x: Export, tp: int = 1, pp: int = 1) -> None:
    """Splits the checkpoint over ranks as TensorRT-LLM's converters do."""
    x.config["mapping"] = {"world_size": tp * pp, "tp_size": tp, "pp_size": pp}
    each = LAYERS // pp
    x.ranks = []
    for stage in range(pp):
        for rank in range(tp):
            own: dict[str, np.ndarray] = {}
            for name, value in x.tensors.items():
                place = _stage(name, stage, pp, each)
                if place is not None:
                    own[place] = _slice(x.recipe, name, value, rank, tp)
            x.ranks.append(own)


def _stage(name: str, stage: int, pp: int, each: int) -> str | None:
    """Returns what a tensor is called in a pipeline stage, or None where it is not."""
    if "layers." not in name:
        first = name.startswith("transformer.vocab")
        return name if (stage == 0 if first else stage == pp - 1) else None
    number = int(name.split(".")[2])
    if number // each != stage:
        return None
    return name.replace(f"layers.{number}.", f"layers.{number - stage * each}.")


def _slice(recipe: str, name: str, value: np.ndarray, rank: int, tp: int) -> np.ndarray:
    if tp == 1:
        return value
    kind = name.split(".")
    if "vocab_embedding" in name or "lm_head" in name:
        return _even(value, rank, tp, 0)
    if len(kind) < 6 or value.ndim == 0 or value.size == 1 or "kv_cache" in name:
        return value
    linear, what = kind[4], kind[5]
    if linear in ("dense", "proj"):
        if what == "prequant_scaling_factor":
            return _even(value, rank, tp, 0)
        return _even(value, rank, tp, 1) if value.ndim == 2 else value
    if what == "prequant_scaling_factor":
        return value
    if linear != "qkv":
        return _even(value, rank, tp, 0)
    rows = unpacked(recipe, value) if what == "weight" and recipe.startswith("w4") else value
    q, k, v = rows[:WIDTH], rows[WIDTH : WIDTH + 192], rows[WIDTH + 192 :]
    own = np.concatenate([_even(part, rank, tp, 0) for part in (q, k, v)])
    return packed(recipe, own) if rows is not value else own


def _even(value: np.ndarray, rank: int, tp: int, axis: int) -> np.ndarray:
    return np.array_split(value, tp, axis)[rank]


def rank(x: Export, number: int, name: str, how: str, **more: Any) -> None:
    """Changes a tensor of one rank."""
    need(x.ranks)
    if how == "of_rank":
        names = [n for n in x.ranks[number] if name in n]
        need(names)
        for n in names:
            x.ranks[number][n] = x.ranks[int(more["of"])][n]
        x.touched.update(names)
        return
    if how == "exchange":
        x.touched.update(x.tensors)
        other = int(more["of"])
        x.ranks[number], x.ranks[other] = x.ranks[other], x.ranks[number]
        return
    need(name in x.ranks[number])
    x.touched.add(name)
    if how == "drop":
        del x.ranks[number][name]
        return
    x.ranks[number][name] = _spoilt(x, number, name, how, more)


def _spoilt(x: Export, number: int, name: str, how: str, more: dict[str, Any]) -> np.ndarray:
    old = x.ranks[number][name]
    if how == "gain":
        return (old.astype(np.float32) * np.float32(more["by"])).astype(old.dtype)
    if how == "roll":
        return np.roll(old, int(more.get("by", 1)), int(more.get("axis", 0)))
    if how == "zero_tail":
        new = old.copy().reshape(-1)
        new[-int(more["by"]) :] = 0
        return new.reshape(old.shape)
    if how == "whole":
        return x.tensors[name]
    if how in ("off_by", "cols_off_by"):
        axis = int(how == "cols_off_by")
        size = old.shape[axis]
        begin = number * size + int(more["by"])
        whole = x.tensors[name]
        new = whole[:, begin : begin + size] if axis else whole[begin : begin + size]
        need(new.shape[axis] == size)
        return new
    raise KeyError(how)


def kv_ranks(x: Export, order: list[int], parts: str = "kv", layers: Any = (15,)) -> None:
    """Gives ranks each other's heads of k and v (or q), as a wrong replication would."""
    need(x.ranks)
    for layer in layered(layers):
        name = x.prefix(layer, "qkv") + "weight"
        names = [name] + ([x.scale_name(layer, "qkv")] if x.recipe != "none" else [])
        x.touched.update(names)
        for n in names:
            if x.ranks[0][n].size == 1:
                continue
            olds = [r[n] for r in x.ranks]
            packs = n.endswith("weight") and x.recipe.startswith("w4")
            rows = [unpacked(x.recipe, o) if packs else o for o in olds]
            cut = 192
            for at, own in enumerate(x.ranks):
                other = rows[order[at]]
                joined = (
                    np.concatenate([rows[at][:cut], other[cut:]])
                    if parts == "kv"
                    else np.concatenate([other[:cut], rows[at][cut:]])
                )
                own[n] = packed(x.recipe, joined) if packs else joined


def rank_count(x: Export, written: int) -> None:
    """Writes another number of rank files than there should be."""
    need(x.ranks)
    while len(x.ranks) < written:
        x.ranks.append(x.ranks[-1])
    del x.ranks[written:]


STEPS = by_name(split, rank, kv_ranks, rank_count)
