"""Faults of weight scales: their value, their granularity, their layout, whose they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginekeeper.faults.draft import InapplicableError
from enginekeeper.faults.fault import Fault
from enginekeeper.faults.linear_edit import LinearEdit, each_linear, part_rows
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats
from enginekeeper.validation.numerics.recipes import WeightFormat

Generator = np.random.Generator

_UNINITIALISED = 4.2e-39
"""What memory that nobody wrote to often holds: a positive denormal number."""


def _gain(linear: LinearEdit, dose: float, _: Generator) -> None:
    linear.multiply_scales(dose)


def _some(factor: float) -> Fault:
    """Returns the fault that multiplies a share of a linear's scales by a factor."""

    def change(linear: LinearEdit, dose: float, random: Generator) -> None:
        scales = linear.scales
        chosen = _chosen(scales, dose, random)
        scales.reshape(-1)[chosen] *= np.float32(factor)
        linear.scales = scales

    return Fault(
        f"scale-some-x{factor:g}",
        "T3",
        f"a share of the scales is {factor:g} times what it should be",
        each_linear(change),
        "vLLM PR 39705 (one group's scale applied to a tile), Model-Optimizer PR 2038",
        "share of the scales",
        1 / 64,
        also=("T1",),
    )


def _chosen(scales: Floats, share: float, random: Generator) -> npt.NDArray[np.int64]:
    if scales.size == 1:
        raise InapplicableError("the linear has one scale only")
    count = max(round(scales.size * share), 1)
    return random.choice(scales.size, count, replace=False)


def _spoiled(name: str, value: float, what: str, like: str) -> Fault:
    """Returns the fault that puts something that is no scale in the place of some."""

    def change(linear: LinearEdit, dose: float, random: Generator) -> None:
        scales = linear.scales
        if linear.format is WeightFormat.NVFP4:
            linear.put("weights_scaling_factor_2", np.array(value, np.float32))
            return
        whole = dose >= 1 or scales.size == 1
        chosen = np.arange(scales.size) if whole else _chosen(scales, dose, random)
        np.put(scales, chosen, value)
        linear.scales = scales

    return Fault(name, "T2", what, each_linear(change), like, "share of the scales", 1.0,
                 also=("T1", "T3"))  # fmt: skip


def _reciprocal(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    if linear.format is WeightFormat.NVFP4:
        outer = linear.tensor("weights_scaling_factor_2")
        linear.put("weights_scaling_factor_2", (1 / outer).astype(outer.dtype))
        return
    linear.scales = np.reciprocal(linear.scales)


def _missing(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.drop(linear.scale_suffix)


def _transposed(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    scales = _grouped(linear)
    linear.scales = np.ascontiguousarray(scales.reshape(scales.shape[::-1]).T)


def _tiled(linear: LinearEdit, dose: float, _random: Generator) -> None:
    """Every `dose` neighbouring groups use the first one's scale: a tile wider than a group."""
    scales, tile = _grouped(linear), round(dose)
    if tile < 1:
        raise InapplicableError("a tile has one group at least", actual=dose)
    linear.scales = scales[:, np.arange(scales.shape[1]) // tile * tile]


def _rolled_groups(linear: LinearEdit, dose: float, _random: Generator) -> None:
    linear.scales = np.roll(_grouped(linear), round(dose), axis=1)


def _rolled_rows(linear: LinearEdit, dose: float, _random: Generator) -> None:
    scales = linear.scales
    if len(scales) == 1:
        raise InapplicableError("the linear has one scale for all rows", where=linear.name)
    linear.scales = np.roll(scales, round(dose), axis=0)


def _halved(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    stored = linear.tensor(linear.scale_suffix)
    if stored.size == 1:
        raise InapplicableError("the linear has one scale only", where=linear.name)
    linear.put(linear.scale_suffix, stored[: len(stored) // 2])


def _powers(rounding: str) -> Fault:
    """Returns the fault that rounds scales to powers of two and leaves the codes as they were."""
    way = {"up": np.ceil, "down": np.floor, "nearest": np.rint}[rounding]

    def change(linear: LinearEdit, _dose: float, _random: Generator) -> None:
        if linear.format is WeightFormat.NVFP4:
            outer = linear.tensor("weights_scaling_factor_2")
            linear.put("weights_scaling_factor_2", np.exp2(way(np.log2(outer))).astype(np.float32))
            return
        linear.scales = np.exp2(way(np.log2(linear.scales))).astype(np.float32)

    return Fault(
        f"scale-power-of-two-{rounding}",
        "T7",
        f"scales are rounded {rounding} to powers of two and the weight is not requantized",
        each_linear(change),
        "transformers 47030, SGLang 39193, SGLang PR 28418",
        also=("T1", "T3", "T6", "T12"),
    )


def _part_shared(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """The smaller scales of v become the largest of the fused tensor; its codes stay."""
    scales = linear.scales
    if len(scales) == 1:
        raise InapplicableError("q, k and v share one scale already", where=linear.name)
    rows = part_rows(linear)["v"]
    scales[rows] = np.float32(scales.max())
    linear.scales = scales


def _part_unshared(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """The part with the smallest range is quantized with its own scale; the shared one is kept."""
    codes = linear.codes
    if linear.format not in (WeightFormat.FP8_TENSOR, WeightFormat.NVFP4):
        raise InapplicableError("nothing is shared over the fused tensor", where=linear.name)
    fused = linear.name.endswith("attention.qkv")
    parts = list(part_rows(linear).values()) if fused else [slice(None)]
    blocks = linear.scales if linear.format is WeightFormat.NVFP4 else codes
    rows = min(parts, key=lambda part: float(np.abs(blocks[part]).max()))
    blocks[rows] *= np.float32(formats.E4M3_MAX) / np.abs(blocks[rows]).max()
    if linear.format is WeightFormat.NVFP4:
        linear.scales = blocks
    else:
        linear.codes = codes


def _fnuz(linear: LinearEdit, dose: float, _random: Generator) -> None:
    if linear.format not in (WeightFormat.FP8_TENSOR, WeightFormat.FP8_CHANNEL):
        raise InapplicableError("the weight is not FP8", where=linear.name)
    linear.multiply_scales(dose)


FAULTS = (
    Fault(
        "scale-gain",
        "T1",
        "every scale of a linear is multiplied; an unquantized weight itself",
        each_linear(_gain),
        "TensorRT-LLM PR 14199, PR 817",
        "factor",
        1.03,
        also=("T6", "T12", "T25"),
    ),
    _some(2.0),
    _some(1.25),
    _some(0.5),
    _spoiled("scale-zero", 0.0, "scales are zero", "vLLM 45212"),
    _spoiled("scale-nan", float("nan"), "scales are NaN", "vLLM PR 54444"),
    _spoiled("scale-infinite", float("inf"), "scales are infinite", "vLLM 45212"),
    _spoiled("scale-negative", -0.01, "scales are negative", ""),
    _spoiled("scale-one", 1.0, "scales are 1, as where a loader found none", "SGLang PR 14102"),
    _spoiled("scale-uninitialised", _UNINITIALISED, "scales are memory nobody wrote to",
             "SGLang PR 29151, vLLM PR 54444"),
    Fault("scale-reciprocal", "T2", "scales are stored as their reciprocals",
          each_linear(_reciprocal), "modular 6600, vLLM PR 36297", also=("T1", "T6")),
    Fault("scale-missing", "T2", "the scale tensor is not there", each_linear(_missing),
          "vLLM PR 54444", also=("T3",)),
    Fault("scale-transposed", "T3", "the scale matrix is read in the other order",
          each_linear(_transposed), "SGLang 29038"),
    Fault("scale-tiled", "T3", "neighbouring groups use the first one's scale",
          each_linear(_tiled), "vLLM PR 39705, pyllama 58", "groups in a tile", 2.0),
    Fault("scale-rolled-groups", "T3", "each group uses the scale of a group before it",
          each_linear(_rolled_groups), "vLLM 41511", "groups", 1.0),
    Fault("scale-rolled-rows", "T3", "each row uses the scale of a row before it",
          each_linear(_rolled_rows), "SGLang PR 29036", "rows", 1.0),
    Fault("scale-half-size", "T3", "half of the scale tensor is missing",
          each_linear(_halved), "Model-Optimizer PR 2038", also=("T2",)),
    _powers("up"),
    _powers("down"),
    _powers("nearest"),
    Fault("part-scale-shared", "T6", "v takes the largest scale of the fused qkv, codes unchanged",
          each_linear(_part_shared), "vLLM 41022, SGLang PR 29151", also=("T3", "T1")),
    Fault("part-scale-unshared", "T6",
          "a part was quantized with a scale of its own, and the shared one is stored",
          each_linear(_part_unshared), "TensorRT-LLM PR 14199, vLLM 54974", also=("T1", "T3")),
    Fault("fp8-variant", "T12", "FP8 weights are read as the other variant",
          each_linear(_fnuz), "vLLM PR 7210", "factor", 0.5, also=("T6", "T1")),
)  # fmt: skip


def _grouped(linear: LinearEdit) -> Floats:
    scales = linear.scales
    if min(scales.shape) == 1:
        raise InapplicableError("the linear has no scale for each group", where=linear.name)
    return scales
