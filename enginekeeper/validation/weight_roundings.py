"""How the codes of a part were rounded, whoever chose the scales: to the nearest, to a side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import Floats, smallest_step, unit
from enginekeeper.validation.numerics.mapping import Part
from enginekeeper.validation.numerics.recipes import (
    WeightFormat,
    code_range,
    round_codes,
    scaled,
    unscaled,
)
from enginekeeper.validation.numerics.reproduction import Reproduction, StoredParts, row_chunks

_Marks = npt.NDArray[np.bool_]

TIE = np.float32(2.0**-9)
"""How near to a tie, relative to the code, other arithmetic may decide it the other way."""

_OPEN = np.float32(2)
"""How many units of the dtype a smoothed weight may be from what was rounded: its vector is known
to one, and the product was rounded by half a one there and here. The largest needed over 1.4
million differing codes of a healthy SmolLM2-135M export (AWQ, bfloat16) was 0.64 of it."""

LEANING = 0.25
"""Of a step on average: half of what cutting off does. To nearest or at random codes lean to
neither side; feedback of errors leaned by up to 0.17."""

_UNUSED = 0.4
"""Share of codes with the lowest bit set, or not set, over that of the nearest codes, below which
that bit is not used."""

_CODE_TOLERANCE = np.float32(1e-5)
"""Relative; neighbouring codes of every format differ by more than 5 %."""

_EXPONENT = np.uint32(0x7F800000)
"""The bits of a float32 that are its exponent: alone, the power of two below the number."""

_FLOAT_STEPS = {
    WeightFormat.FP8_TENSOR: (np.float32(2.0**-3), np.float32(2.0**-9)),
    WeightFormat.FP8_CHANNEL: (np.float32(2.0**-3), np.float32(2.0**-9)),
    WeightFormat.NVFP4: (np.float32(2.0**-1), np.float32(2.0**-1)),
}
"""Distance between neighbours over the power of two below them, and between the smallest."""

_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Followed:
    """What the scales that are stored, whoever chose them, make of the source."""

    equal: float
    """Share of the codes that are the nearest."""
    gain: float
    """Added to an honest export's by the nearest codes: coarse ones shrink or stretch weights."""
    missed: _Marks
    """True where a scale has a code that is not the nearest; of what was smoothed, cannot be."""
    beyond: float
    """Share of the codes that are more than a step from the weight, as no rounding of it is."""


@dataclass(frozen=True)
class Leaning:
    """To which side the codes of a part were rounded, in steps of its format."""

    mean: float
    """Mean of stored minus source: 0, whatever rounding is fair."""
    outward: float
    """The same away from zero: -0.5 where weights were cut off."""
    nearest_outward: float
    """The same of the nearest codes: 0, but of weights that are small beside their scale those that
    are not rounded to zero are rounded up."""
    odd: float
    """Share of codes whose lowest bit is set."""
    nearest_odd: float
    """The same of the nearest codes: about a half, but of such weights most codes are 1."""

    @property
    def aside(self) -> bool:
        """Whether codes were rounded to one side, or to every second one only."""
        outward = min(abs(self.outward), abs(self.outward - self.nearest_outward))
        unused = self.odd < _UNUSED * self.nearest_odd or (
            1 - self.odd < _UNUSED * (1 - self.nearest_odd)
        )
        return max(abs(self.mean), outward) > LEANING or unused


def followed(
    stored: StoredParts, reproduction: Reproduction, index: int, columns: int, part: Part
) -> Followed:
    """Reads a part again and holds its codes against the scales that are stored."""
    kind, missed, equal, beyond = reproduction.recipe.format, [], 0, 0
    smoothed_in = reproduction.smoothed_in(index)
    excess = energy = 0.0
    for start, stop in row_chunks(part.rows, columns):
        there = stored.part_quantized(part, start, stop)
        weight = reproduction.weight(part, index, start, stop)
        honest = reproduction.quantize(weight).values
        codes = unscaled(weight, there.scales)
        # Some exporters leave the lowest integer out.
        nearest = round_codes(kind, codes)
        if kind in (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL):
            lowest = code_range(kind)[0]
            nearest = np.maximum(nearest, lowest + bool(there.codes.min() > lowest))
        allowed = np.abs(nearest - codes) + np.abs(codes) * _tie(kind) + TIE
        if smoothed_in is not None:
            wide = np.repeat(there.scales, columns // there.scales.shape[1], axis=1)
            allowed += open_by(nearest, wide, smoothed_in)
        far = ~((np.abs(there.codes - codes) <= allowed) | (there.codes == nearest))
        equal += int(np.count_nonzero(~apart(nearest, there.codes)))
        missed.append(far.reshape(*there.scales.shape, -1).any(axis=2))
        beyond += _count_beyond(kind, nearest, codes, there.codes, allowed)
        excess += float(((scaled(nearest, there.scales) - honest) * weight).sum())
        energy += float((weight * weight).sum())
    numbers = max(part.rows * columns, 1)
    gain = excess / max(energy, _TINY)
    return Followed(equal / numbers, gain, np.concatenate(missed), beyond / numbers)


def _count_beyond(
    kind: WeightFormat, nearest: Floats, codes: Floats, there: Floats, allowed: Floats
) -> int:
    """Counts codes further from weight / scale than both its neighbours are, by what is allowed.

    `allowed` is how far the nearest may be; its other neighbour is at most a step further.
    """
    one = np.ones((len(codes), 1), np.float32)
    step = steps(kind, np.maximum(np.abs(codes), np.abs(there)), one)
    within = (np.abs(there - codes) <= step + allowed - np.abs(nearest - codes)) | (
        there == nearest
    )
    return int(np.count_nonzero(~within))


def open_by(codes: Floats, scales: Floats, smoothed_in: str) -> Floats:
    """Returns how many steps a smoothed weight may be from what was rounded."""
    relative: Floats = np.abs(codes) * (_OPEN * unit(smoothed_in))
    # The smallest numbers of a dtype have no digits to lose but the last.
    return relative + _OPEN * smallest_step(smoothed_in) / scales


def _tie(kind: WeightFormat) -> np.float32:
    """Wider for coarse numbers: arithmetic in bfloat16 moves those only that are near a tie."""
    return TIE if kind is WeightFormat.INT8_CHANNEL else 4 * TIE


def leaning(
    stored: StoredParts, reproduction: Reproduction, index: int, columns: int, part: Part
) -> Leaning:
    """Reads a part again and says to which side its codes were rounded.

    Of weights that are small beside their scale, those with a code that is not zero were rounded
    up, and those whose nearest one is not were rounded down if noise was added: of both sums the
    smaller counts.
    """
    kind, seen = reproduction.recipe.format, np.zeros(2)
    sums, sides = np.zeros(3), np.zeros((2, 2))
    for start, stop in row_chunks(part.rows, columns):
        there = stored.part_quantized(part, start, stop)
        weight = reproduction.weight(part, index, start, stop)
        nearest = round_codes(kind, unscaled(weight, there.scales))
        near = steps(kind, np.maximum(np.abs(weight), np.abs(there.values)), there.scales)
        off, own = ((one - weight) / near for one in (there.values, scaled(nearest, there.scales)))
        sign, counted = np.sign(weight), (nearest != 0, there.codes != 0)
        odd, own_odd = (_odd(kind, codes, there.scales) for codes in (there.codes, nearest))
        seen += [int(np.count_nonzero(marks)) for marks in counted]
        sums += [float(values[counted[0]].sum()) for values in (own * sign, odd, own_odd)]
        sides += [[float(values[marks].sum()) for values in (off, off * sign)] for marks in counted]
    mean, outward = (
        min(values, key=abs) for values in (sides / np.maximum(seen, 1)[:, None]).T.tolist()
    )
    nearest_outward, is_odd, nearest_odd = (sums / max(float(seen[0]), 1)).tolist()
    return Leaning(mean, outward, nearest_outward, is_odd, nearest_odd)


def _odd(kind: WeightFormat, codes: Floats, scales: Floats) -> _Marks:
    """Marks codes whose lowest bit is set."""
    odd: _Marks = np.abs(codes) / steps(kind, codes, np.ones_like(scales)) % 2 == 1
    return odd


def apart(codes: Floats, others: Floats) -> _Marks:
    """Marks codes that are other numbers, not the same one after other arithmetic; NaN is none."""
    difference = others - codes
    np.abs(difference, out=difference)
    allowed = np.abs(codes)
    allowed *= _CODE_TOLERANCE
    return np.logical_not(difference <= allowed)


def steps(kind: WeightFormat, weights: Floats, scales: Floats) -> Floats:
    """Returns how far apart the two numbers of the format are that a weight is between."""
    wide = np.repeat(scales, weights.shape[-1] // scales.shape[-1], axis=1)
    match kind:
        case WeightFormat.INT4_GROUP | WeightFormat.INT8_CHANNEL:
            return wide
        case WeightFormat.FP8_TENSOR | WeightFormat.FP8_CHANNEL | WeightFormat.NVFP4:
            relative, smallest = _FLOAT_STEPS[kind]
            codes = weights / wide
            below = (codes.view(np.uint32) & _EXPONENT).view(np.float32)
            found: Floats = np.maximum(below * relative, smallest) * wide
            return found
        case WeightFormat.PLAIN:
            raise AssertionError("nothing was rounded")
        case _:
            assert_never(kind)
