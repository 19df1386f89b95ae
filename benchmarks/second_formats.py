"""Exports of the bundled model as arrays, written without the product's own reading of formats.

Whoever wrote `enginekeeper/validation/numerics` is not asked what a checkpoint means: both sides
would then share a mistake. What stands here follows ModelOpt's export and TensorRT-LLM's loader.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F16": np.float16,
    "I8": np.int8,
    "I32": np.int32,
    "U8": np.uint8,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
LAYERS, HEADS, KV_HEADS, HEAD = 30, 9, 3, 64
WIDTH, INNER, VOCABULARY = 576, 1536, 49152
GROUPS = {"w4a16": 64, "w4a16_awq": 64, "nvfp4": 16}
"""Input columns that share a scale."""
PER_ROW = ("fp8_per_channel_per_token", "w8a16", "w8a8_sq")
PARTS = {
    "qkv": ("attention.qkv", 0, 960, ("self_attn.q", "self_attn.k", "self_attn.v")),
    "q": ("attention.qkv", 0, 576, ("self_attn.q",)),
    "k": ("attention.qkv", 576, 768, ("self_attn.k",)),
    "v": ("attention.qkv", 768, 960, ("self_attn.v",)),
    "o": ("attention.dense", 0, 576, ("self_attn.o",)),
    "gate": ("mlp.fc", 0, 1536, ("mlp.gate",)),
    "up": ("mlp.gate", 0, 1536, ("mlp.up",)),
    "down": ("mlp.proj", 0, 576, ("mlp.down",)),
}
"""Name of a part -> its linear in the checkpoint, its rows there, and its source tensors."""
LINEARS = ("qkv", "o", "gate", "up", "down")


class NotApplicableError(Exception):
    """This edit means nothing for this export."""


@dataclass
class Export:
    """A checkpoint in memory; edits replace arrays, never write into them."""

    recipe: str
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    source: dict[str, np.ndarray]
    ranks: list[dict[str, np.ndarray]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    padding: int = 0
    source_config: dict[str, Any] = field(default_factory=dict)
    source_edits: list[dict[str, Any]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def prefix(self, layer: int, part: str) -> str:
        """Returns where the linear of a part lies."""
        return f"transformer.layers.{layer}.{PARTS[part][0]}."

    def scale_name(self, layer: int, part: str) -> str:
        """Returns the name of a linear's weight scale."""
        if self.recipe == "none":
            raise NotApplicableError
        own = "per_channel_scale" if self.recipe.startswith("fp8_") else "weights_scaling_factor"
        return self.prefix(layer, part) + own

    def put(self, name: str, value: np.ndarray) -> None:
        """Replaces a tensor and remembers that."""
        self.touched.add(name)
        self.tensors[name] = value

    def weights(self, layer: int, part: str) -> np.ndarray:
        """Returns the source's weights of a part."""
        names = PARTS[part][3]
        found = [self.source[f"model.layers.{layer}.{n}_proj.weight"] for n in names]
        return np.concatenate(found).astype(np.float32)


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file by its layout."""
    raw = np.memmap(path, np.uint8, "r")
    length = struct.unpack("<Q", raw[:8].tobytes())[0]
    header = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + at for at in entry["data_offsets"])
        found[name] = raw[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def write(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], padding: int = 0
) -> None:
    """Writes a safetensors file in the order of `tensors`, its header padded with spaces."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, value in tensors.items():
        shape = list(value.shape)
        header[name] = {
            "dtype": NAMES[value.dtype],
            "shape": shape,
            "data_offsets": [at, at + value.nbytes],
        }
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + padding)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value).view(np.uint8).reshape(-1).data)


def opened(recipe: str, directory: Path, source: Path) -> Export:
    """Returns an export and the weights of its source."""
    config = json.loads((directory / "config.json").read_text())
    return Export(
        recipe,
        config,
        dict(read(directory / "rank0.safetensors")),
        read(source / "model.safetensors"),
        source_config=json.loads((source / "config.json").read_text()),
    )


def codes(export: Export, layer: int, part: str) -> np.ndarray:
    """Returns the stored elements of a part, one each, as [outputs, inputs]."""
    _, start, end, _ = PARTS[part]
    stored = export.tensors[export.prefix(layer, part) + "weight"]
    return unpacked(export.recipe, stored)[start:end]


def unpacked(recipe: str, stored: np.ndarray) -> np.ndarray:
    """Returns nibbles as elements: INT4 in pairs of outputs, NVFP4 in pairs of inputs."""
    if recipe.startswith("w4"):
        found = np.empty((stored.shape[0] * 2, stored.shape[1]), np.int8)
        found[0::2], found[1::2] = (stored << 4).astype(np.int8) >> 4, stored >> 4
        return found
    if recipe == "nvfp4":
        found = np.empty((stored.shape[0], stored.shape[1] * 2), np.uint8)
        found[:, 0::2], found[:, 1::2] = stored & 15, stored >> 4
        return found
    return stored


def packed(recipe: str, elements: np.ndarray) -> np.ndarray:
    """Undoes `unpacked`."""
    if recipe.startswith("w4"):
        low, high = elements[0::2].view(np.uint8) & 15, elements[1::2].view(np.uint8) & 15
        return (low | (high << 4)).view(np.int8)
    if recipe == "nvfp4":
        return (elements[:, 0::2] & 15) | ((elements[:, 1::2] & 15) << 4)
    return elements


def put_codes(export: Export, layer: int, part: str, elements: np.ndarray) -> None:
    """Stores the elements of a part and leaves the rest of its linear."""
    _, start, end, _ = PARTS[part]
    name = export.prefix(layer, part) + "weight"
    whole = unpacked(export.recipe, export.tensors[name]).copy()
    whole[start:end] = elements
    export.put(name, packed(export.recipe, whole))


def spread(export: Export, layer: int, part: str) -> np.ndarray:
    """Returns each element's scale, as far as scales say, as [outputs, inputs or 1]."""
    scale = export.tensors[export.scale_name(layer, part)].astype(np.float32)
    rows = slice(PARTS[part][1], PARTS[part][2])
    if export.recipe in GROUPS:
        scale = np.repeat(scale[rows], GROUPS[export.recipe], axis=1)
        if export.recipe == "nvfp4":
            scale = scale * float(
                export.tensors[export.prefix(layer, part) + "weights_scaling_factor_2"]
            )
        return scale
    return scale[rows][:, None] if scale.size > 1 else scale.reshape(1, 1)


def values(recipe: str, elements: np.ndarray) -> np.ndarray:
    """Returns what elements stand for before their scale."""
    return E2M1[elements & 15] if recipe == "nvfp4" else elements.astype(np.float32)


def dequantized(export: Export, layer: int, part: str) -> np.ndarray:
    """Returns what a part multiplies its input by, the pre-quant scale included."""
    found = values(export.recipe, codes(export, layer, part))
    if export.recipe == "none":
        return found
    found = found * spread(export, layer, part)
    smoothing = export.tensors.get(export.prefix(layer, part) + "prequant_scaling_factor")
    return found if smoothing is None else found * smoothing.astype(np.float32)
