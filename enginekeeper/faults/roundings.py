"""Healthy controls that quantize the source anew: other valid roundings of the same recipe.

A rule for the scales (clipped for the smallest error, with a margin, powers of two) goes with a
rule for the codes (nearest, halves up, error diffused as GPTQ does, random). The pre-quant vector
is the checkpoint's, or another one in its neighbourhood, as another calibration would find.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.fault import Edit, Fault, Target
from enginekeeper.faults.linear_edit import LinearEdit, places
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.mapping import LinearPlace
from enginekeeper.validation.numerics.recipes import WeightFormat, code_range, round_codes
from enginekeeper.validation.numerics.reproduction import source_rows
from enginekeeper.validation.numerics.smoothing import smooth_by

Generator = np.random.Generator

ScaleRule = Callable[[Floats, Floats, WeightFormat, float], Floats]
"""Chooses scales [rows, groups] for weights [rows, groups, columns], given the recipe's own."""

CodeRule = Callable[[Floats, WeightFormat, Generator], Floats]
"""Rounds weight / scale to codes."""

_INTEGERS = (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL)


def _requantized(scale_rule: ScaleRule, code_rule: CodeRule, *, smoothing: float = 0.0) -> Edit:
    def edit(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
        for place in places(draft, target):
            linear = LinearEdit(draft, 0, place.name)
            random = target.random(place.name)
            weight = _smoothed(linear, _source_weight(draft, place), smoothing, random)
            grouped = _grouped(linear, weight)
            own = _own_scales(linear, grouped)
            scales = _store_scales(linear, scale_rule(grouped, own, linear.format, dose))
            codes = code_rule(grouped / scales[:, :, None], linear.format, random)
            linear.codes = codes.reshape(weight.shape)
        return ()

    return edit


def _source_weight(draft: Draft, place: LinearPlace) -> Floats:
    if draft.source is None:
        raise InapplicableError("the control quantizes the source anew", remedy="give --model")
    if len(draft.ranks) > 1:
        raise InapplicableError("the control is for checkpoints of one rank")
    dtype = draft.base.dtype
    parts = [source_rows(draft.source, part, 0, part.rows, dtype) for part in place.parts]
    return np.concatenate(parts)


def _smoothed(linear: LinearEdit, weight: Floats, share: float, random: Generator) -> Floats:
    """Divides by the pre-quant vector, after moving it by up to `share` either way."""
    if not linear.has("prequant_scaling_factor"):
        if share:
            raise InapplicableError("the recipe smooths nothing", where=linear.name)
        return weight
    stored = linear.tensor("prequant_scaling_factor")
    dtype = linear.draft.base.dtype
    moved = stored.astype(np.float32) * random.uniform(1 - share, 1 + share, stored.shape)
    vector = round_to(moved.astype(np.float32), dtype)
    linear.put("prequant_scaling_factor", vector.astype(stored.dtype))
    return smooth_by(weight, vector.reshape(-1), dtype)


def _grouped(linear: LinearEdit, weight: Floats) -> Floats:
    if linear.format is WeightFormat.PLAIN:
        raise InapplicableError("the linear is not quantized", where=linear.name)
    return weight.reshape(len(weight), linear.scales.shape[1], -1)


def _own_scales(linear: LinearEdit, grouped: Floats) -> Floats:
    """Returns the scales [rows, groups] that the recipe gives."""
    largest = np.abs(grouped).max(axis=2)
    if linear.format is WeightFormat.FP8_TENSOR:
        # What is shared over fused linears stays so: another scale is another multiple of it.
        shared = float(linear.scales.max()) * formats.E4M3_MAX
        largest = np.full(largest.shape, shared, np.float32)
    limit = np.float32(code_range(linear.format)[1])
    largest[largest == 0] = 1
    own: Floats = largest / limit
    return own


def _store_scales(linear: LinearEdit, scales: Floats) -> Floats:
    """Stores scales and returns them as they are read again."""
    if linear.format is not WeightFormat.NVFP4:
        linear.scales = scales[: len(linear.scales)]
        second = "weights_scaling_factor_2"
        if linear.format is WeightFormat.INT4_GROUP and linear.has(second):
            stored = linear.tensor(second)
            largest = np.float32(scales.max()) * formats.INT4_MAX
            linear.put(second, np.full_like(stored, largest / formats.E4M3_MAX))
        return scales
    outer = np.float32(linear.tensor("weights_scaling_factor_2").item())
    inner = formats.round_e4m3(np.clip(scales / outer, np.float32(2.0**-9), formats.E4M3_MAX))
    linear.scales = inner
    return inner * outer


def _own(_grouped: Floats, own: Floats, _kind: WeightFormat, _dose: float) -> Floats:
    return own


def _margin(_grouped: Floats, own: Floats, kind: WeightFormat, dose: float) -> Floats:
    """Only where a step is fine: no exporter leaves a margin above the 15 steps of INT4."""
    if kind not in (WeightFormat.INT8_CHANNEL, WeightFormat.FP8_CHANNEL):
        raise InapplicableError("the format leaves no room for a margin of its own")
    return own * np.float32(dose)


def _half_step(_grouped: Floats, own: Floats, kind: WeightFormat, _dose: float) -> Floats:
    """Spreads the largest weight over the whole integer range: half a step more on each side."""
    _integers_only(kind)
    limit = np.float32(code_range(kind)[1])
    return own * limit / (limit + np.float32(0.5))


def _powers(_grouped: Floats, own: Floats, kind: WeightFormat, _dose: float) -> Floats:
    if kind is not WeightFormat.FP8_CHANNEL:
        raise InapplicableError("a float format with a scale of each row's own is needed")
    powers: Floats = np.exp2(np.ceil(np.log2(own))).astype(np.float32)
    return powers


def _clipped(grouped: Floats, own: Floats, kind: WeightFormat, _dose: float) -> Floats:
    """Chooses each scale for the smallest squared error, as AWQ's clipping search does."""
    if kind is WeightFormat.FP8_TENSOR:
        raise InapplicableError("the scale is shared with other linears")
    best, least = own.copy(), np.full(own.shape, np.inf, np.float32)
    for shrink in np.linspace(1.0, 0.7, 7):
        scales = own * np.float32(shrink)
        codes = round_codes(kind, grouped / scales[:, :, None])
        error = ((codes * scales[:, :, None] - grouped) ** 2).sum(axis=2)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return best


def _nearest(values: Floats, kind: WeightFormat, _random: Generator) -> Floats:
    return round_codes(kind, values)


def _half_up(values: Floats, kind: WeightFormat, _random: Generator) -> Floats:
    _integers_only(kind)
    codes: Floats = np.clip(np.floor(values + np.float32(0.5)), *code_range(kind))
    return codes


def _at_random(values: Floats, kind: WeightFormat, random: Generator) -> Floats:
    _integers_only(kind)
    noise = random.random(values.shape, np.float32)
    codes: Floats = np.clip(np.floor(values + noise), *code_range(kind))
    return codes


def _diffused(values: Floats, kind: WeightFormat, _random: Generator) -> Floats:
    """Carries half of each rounding error to the next column of the group."""
    _integers_only(kind)
    codes = np.empty_like(values)
    carried: Floats = np.zeros(values.shape[:2], np.float32)
    for column in range(values.shape[2]):
        wanted = values[..., column] + carried / 2
        codes[..., column] = np.clip(np.rint(wanted), *code_range(kind))
        carried = np.asarray(wanted - codes[..., column], np.float32)
    return codes


def _integers_only(kind: WeightFormat) -> None:
    if kind not in _INTEGERS:
        raise InapplicableError("the weight is not made of integers")


def _control(name: str, what: str, edit: Edit, dose: str | None = None, usual: float = 1.0
             ) -> Fault:  # fmt: skip
    return Fault(name, None, what, edit, dose=dose, usual=usual)


CONTROLS = (
    _control("rounding-half-up", "halves are rounded up", _requantized(_own, _half_up)),
    _control("rounding-clipped", "scales are chosen for the smallest error",
             _requantized(_clipped, _nearest)),
    _control("rounding-whole-range", "the integers' whole range is used",
             _requantized(_half_step, _nearest)),
    _control("rounding-margin", "scales leave a margin above the largest weight",
             _requantized(_margin, _nearest), "factor", 1.05),
    _control("rounding-powers-of-two", "scales are powers of two, and the weight is quantized so",
             _requantized(_powers, _nearest)),
    _control("rounding-diffused", "rounding errors are carried on, as GPTQ does",
             _requantized(_own, _diffused)),
    _control("rounding-random", "codes are rounded at random", _requantized(_own, _at_random)),
    _control("smoothing-other", "another calibration found another pre-quant vector",
             _requantized(_own, _nearest, smoothing=0.1)),
)  # fmt: skip
