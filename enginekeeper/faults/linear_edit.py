"""One quantized linear of a draft, taken apart into codes and scales and put together again.

Codes are the numbers the format holds (integers, FP8 or FP4 values, plain weights) as float32, one
for each weight; a code times its scale is the weight. Writing back packs them as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn

from enginekeeper.faults.draft import Array, Draft, InapplicableError
from enginekeeper.faults.fault import Edit, Target
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats, widen
from enginekeeper.validation.numerics.linears import read_linear
from enginekeeper.validation.numerics.mapping import LinearPlace, layer_linears
from enginekeeper.validation.numerics.recipes import WeightFormat


class LinearEdit:
    """A linear of one rank; every change goes to the draft at once."""

    def __init__(self, draft: Draft, rank: int, name: str) -> None:
        self.draft, self.rank, self.name = draft, rank, name
        self.format = read_linear(draft.base.ranks[rank], name).format

    def tensor(self, suffix: str) -> Array:
        """Returns a tensor of the linear, to be changed in place."""
        return self.draft.get(self.rank, f"{self.name}.{suffix}")

    def put(self, suffix: str, values: Array) -> None:
        """Replaces or adds a tensor of the linear."""
        self.draft.put(self.rank, f"{self.name}.{suffix}", values)

    def drop(self, suffix: str) -> None:
        """Takes a tensor of the linear out."""
        self.draft.drop(self.rank, f"{self.name}.{suffix}")

    def has(self, suffix: str) -> bool:
        """Whether the linear has such a tensor."""
        return self.draft.has(self.rank, f"{self.name}.{suffix}")

    @property
    def scale_suffix(self) -> str:
        """Which tensor holds its scales."""
        if self.format is WeightFormat.PLAIN:
            raise InapplicableError("the linear is not quantized", where=self.name)
        per_channel = self.format is WeightFormat.FP8_CHANNEL
        return "per_channel_scale" if per_channel else "weights_scaling_factor"

    @property
    def scales(self) -> Floats:
        """Scales as [rows or 1, groups or 1]; of NVFP4 the block scales, without the outer one."""
        stored = widen(self.tensor(self.scale_suffix))
        return stored.reshape(-1, 1) if stored.ndim < 2 else stored.copy()  # noqa: PLR2004

    @scales.setter
    def scales(self, values: Floats) -> None:
        stored = self.tensor(self.scale_suffix)
        if stored.dtype == float8_e4m3fn:
            values = np.clip(values, -formats.E4M3_MAX, formats.E4M3_MAX)
        self.put(self.scale_suffix, values.reshape(stored.shape).astype(stored.dtype))

    def multiply_scales(self, factor: float) -> None:
        """Multiplies all scales; of NVFP4 the outer one, of a plain weight the weight itself."""
        if self.format is WeightFormat.PLAIN:
            self.codes *= np.float32(factor)
        elif self.format is WeightFormat.NVFP4:
            outer = self.tensor("weights_scaling_factor_2")
            self.put("weights_scaling_factor_2", (outer * np.float32(factor)).astype(outer.dtype))
        else:
            self.scales *= np.float32(factor)

    @property
    def codes(self) -> Floats:
        """What the weight's bytes stand for, before scales."""
        stored = self.tensor("weight")
        if self.format is WeightFormat.INT4_GROUP:
            return formats.unpack_int4_rows(stored).astype(np.float32)
        if self.format is WeightFormat.NVFP4:
            return formats.decode_e2m1(formats.unpack_e2m1_columns(stored))
        return np.array(widen(stored), np.float32)

    @codes.setter
    def codes(self, values: Floats) -> None:
        self.put("weight", self._packed(values))

    def _packed(self, values: Floats) -> Array:
        match self.format:
            case WeightFormat.INT4_GROUP:
                return formats.pack_int4_rows(np.clip(np.rint(values), -8, 7).astype(np.int8))
            case WeightFormat.NVFP4:
                return formats.pack_e2m1_columns(formats.encode_e2m1(values))
            case WeightFormat.INT8_CHANNEL:
                return np.clip(np.rint(values), -128, 127).astype(np.int8)
            case WeightFormat.FP8_TENSOR | WeightFormat.FP8_CHANNEL:
                # NaN stays NaN; what is too large saturates, as quantizers do.
                return formats.encode_e4m3(np.clip(values, -formats.E4M3_MAX, formats.E4M3_MAX))
            case WeightFormat.PLAIN:
                return values.astype(self.tensor("weight").dtype)

    @property
    def values(self) -> Floats:
        """The weight as the engine multiplies it."""
        codes = self.codes
        if self.format is WeightFormat.PLAIN:
            return codes
        scales = self.scales
        if self.format is WeightFormat.NVFP4:
            scales = scales * self.tensor("weights_scaling_factor_2").astype(np.float32)
        grouped = codes.reshape(len(codes), scales.shape[1], -1) * scales[:, :, None]
        return grouped.reshape(codes.shape)

    def make_plain(self) -> None:
        """Stores the dequantized weight in bfloat16, without any scale."""
        values = self.values.astype(bfloat16)
        for suffix in (self.scale_suffix, "weights_scaling_factor_2"):
            if self.has(suffix):
                self.drop(suffix)
        self.put("weight", values)


Change = Callable[[LinearEdit, float, np.random.Generator], None]
"""Changes one linear, by a dose."""


def each_linear(change: Change) -> Edit:
    """Makes an edit of what is done to every linear of a target, on all ranks."""

    def edit(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
        names = []
        for place in places(draft, target):
            for linear in slices(draft, place):
                change(linear, dose, target.random(place.name))
            names.append(place.name)
        return tuple(names)

    return edit


def places(draft: Draft, target: Target) -> Iterator[LinearPlace]:
    """Yields the linears of a target."""
    geometry = draft.geometry
    for layer in target.numbers(geometry.layers):
        for place in layer_linears(layer, geometry):
            if place.name.endswith(target.linear):
                yield place


def slices(draft: Draft, place: LinearPlace) -> Iterator[LinearEdit]:
    """Yields a linear's slices, one for each rank."""
    for rank in range(len(draft.ranks)):
        yield LinearEdit(draft, rank, place.name)


def part_rows(linear: LinearEdit) -> dict[str, slice]:
    """Returns where q, k and v are in a rank's slice of a fused linear."""
    if not linear.name.endswith("attention.qkv"):
        raise InapplicableError("only attention.qkv has parts", where=linear.name)
    geometry, ranks = linear.draft.geometry, len(linear.draft.ranks)
    query = geometry.heads * geometry.head_size // ranks
    key = max(geometry.kv_heads // ranks, 1) * geometry.head_size
    bounds = {"q": (0, query), "k": (query, query + key), "v": (query + key, query + 2 * key)}
    return {name: slice(*bound) for name, bound in bounds.items()}
