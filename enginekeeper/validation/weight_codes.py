"""Codes that are not an honest export's: which of them a fair rounding may have chosen.

Only those that differ are looked at. A smoothed weight is known to a unit or two of its dtype: its
codes are open by as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.recipes import (
    Quantized,
    WeightFormat,
    code_range,
    round_codes,
    unscaled,
)
from enginekeeper.validation.weight_roundings import TIE, open_by

_Marks = npt.NDArray[np.bool_]
_Counts = npt.NDArray[np.int64]

OPEN_SCALE = np.float32(2.0**-6)
"""Relative; what another half precision makes of a smoothed group's scale. Beyond, it is another
scale, and codes are another rounding's."""

_HALF = np.float32(0.5)
"""Of a step between integers: as far as the nearest one is at most."""

_BANDS, _IN_BAND = 8, 0.02
"""Runs of rows; in three of four of them at least such a share of the codes that are not zero is
made others by another rule of rounding, which is for all rows."""

_EACH_WAY = 0.1
"""Share of the codes that differ which another rule of rounding moves to either side, at least;
cutting off and zeros move them to one."""

SAME_SCALE = np.float32(1e-5)
"""Relative; float32 arithmetic done in another order."""


@dataclass(frozen=True)
class CodesInQuestion:
    """The codes in question, and their scales: flat, one of each for every code that differs."""

    source: Floats
    """Weight over stored scale, not rounded."""
    stored: Floats
    honest_source: Floats
    honest: Floats
    deviation: Floats
    """Of the stored scale from the honest one, relative."""
    scale: Floats
    """As stored."""

    @classmethod
    def of(
        cls, places: npt.NDArray[np.intp], weight: Floats, honest: Quantized, stored: Quantized
    ) -> CodesInQuestion:
        """Takes the codes at some places of rows."""
        group = weight.size // honest.scales.size
        honest_scale, scale = (one.scales.reshape(-1)[places // group] for one in (honest, stored))
        source = weight.reshape(-1)[places]
        return cls(
            source / scale,
            stored.codes.reshape(-1)[places],
            source / honest_scale,
            honest.codes.reshape(-1)[places],
            np.abs(scale - honest_scale) / honest_scale,
            scale,
        )


@dataclass
class Changed:
    """Which integers are not an honest export's, and how they differ; of other formats none."""

    rows: int
    live: _Counts = field(init=False)
    """In each row, how many are not zero, as stored or honest."""
    differing: _Counts = field(init=False)
    """In each row, how many are others."""
    far: int = 0
    """How many of those are more than a step from weight / stored scale: no rounding gives them."""
    outward: int = 0
    """How many of them are further from zero than the honest ones."""
    inward: int = 0

    def __post_init__(self) -> None:
        self.live = np.zeros(self.rows, np.int64)
        self.differing = np.zeros(self.rows, np.int64)

    def add(
        self, where: slice, live: _Marks, differing: _Marks, codes: CodesInQuestion, far: _Marks
    ) -> None:
        """Counts those of a chunk."""
        self.live[where] = np.count_nonzero(live, axis=1)
        self.differing[where] = np.count_nonzero(differing, axis=1)
        self.far += int(np.count_nonzero(far))
        outward = int(np.count_nonzero(np.abs(codes.stored) > np.abs(codes.honest)))
        self.outward += outward
        self.inward += len(codes.stored) - outward

    def by_another_rule(self, share: float) -> bool:
        """Says whether many codes differ of those that are not zero, as another rule rounds them.

        Where outliers leave most codes at zero, any rounding gives the same of those: more than
        `share` of the others differ. A rule of rounding is for all rows, and moves codes to both
        sides, none by more than a step.
        """
        bands = np.linspace(0, len(self.live), _BANDS, endpoint=False).astype(np.intp)
        live, differing = (
            np.add.reduceat(rows, np.unique(bands)) for rows in (self.live, self.differing)
        )
        everywhere = np.quantile(differing / np.maximum(live, 1), 0.25) >= _IN_BAND
        many = differing.sum() > share * live.sum()
        fewer, both = min(self.outward, self.inward), self.outward + self.inward
        return not self.far and bool(many and everywhere) and fewer >= _EACH_WAY * both


def in_half_precision(kind: WeightFormat, weight: Floats, stored: Quantized) -> bool:
    """Says whether every code is that of a quotient rounded to half precision."""
    quotient = unscaled(weight, stored.scales)
    return any(
        np.array_equal(stored.codes, round_codes(kind, round_to(quotient, dtype)))
        for dtype in ("bfloat16", "float16")
    )


def strays_if_settled(codes: CodesInQuestion) -> _Marks:
    """Marks codes further from weight / scale than the honest code is, by more than arithmetic."""
    honest_distance = np.abs(codes.honest - codes.honest_source)
    allowed = honest_distance + np.abs(codes.honest_source) * TIE + TIE
    # Written so that NaN is a stray.
    strays: _Marks = (codes.deviation <= SAME_SCALE) & ~(
        np.abs(codes.stored - codes.source) <= allowed
    )
    return strays


def strays_if_open(kind: WeightFormat, codes: CodesInQuestion, smoothed_in: str) -> _Marks:
    """Marks codes that no weight within what is not known of it rounds to.

    The scale may be of either end of that, or the honest one and rounded to half precision: by as
    much as it differs, the codes may be those of another scale.
    """
    wanted = np.clip(codes.source, *code_range(kind))
    allowed = (
        _HALF + open_by(wanted, codes.scale, smoothed_in) + np.abs(wanted) * codes.deviation + TIE
    )
    # Written so that NaN is a stray.
    strays: _Marks = (codes.deviation <= OPEN_SCALE) & ~(np.abs(codes.stored - wanted) <= allowed)
    return strays


def far(kind: WeightFormat, codes: CodesInQuestion, smoothed_in: str | None) -> _Marks:
    """Marks integers that are neither of the two next to weight / stored scale."""
    wanted = np.clip(codes.source, *code_range(kind))
    allowed = np.float32(1) + np.abs(wanted) * TIE + TIE
    if smoothed_in is not None:
        allowed += open_by(wanted, codes.scale, smoothed_in)
    # Written so that NaN is far.
    marks: _Marks = ~(np.abs(codes.stored - wanted) <= allowed)
    return marks
