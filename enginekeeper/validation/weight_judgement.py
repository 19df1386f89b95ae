"""Whether a part's statistics are those of an honest export; the limits and where they are from.

Rules:

- reproduced bit for bit: honest, nothing else is asked;
- the same codes but other scales: the scale is wrong, unless it is the honest one rounded to
  half precision, which is a valid way to store it;
- codes that are all the nearest under the stored scales: only the scales were chosen otherwise, and
  what they cost is judged by the widest limits;
- nearly the same codes (95 %): rounded as the recipe says, judged by the tight limits; a code that
  neither a tie nor what is not known of a smoothed weight explains is damage;
- scales rounded to half precision add to the honest error and gain what they are off by;
- other codes, or all scales others and the codes the nearest under those: perhaps another valid
  rounding (GPTQ, clipping, the whole range of the integers), judged by the wide limits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.numerics.formats import BFLOAT16_ROUNDING, Floats
from enginekeeper.validation.numerics.recipes import WeightFormat, code_range
from enginekeeper.validation.weight_codes import SAME_SCALE
from enginekeeper.validation.weight_scales import (
    BEYOND,
    of_other_weights,
    rounded_to_half,
    scale_ratio,
)
from enginekeeper.validation.weight_statistics import Comparison, PartStatistics, Sums

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Limits:
    """What an honest part stays below."""

    gain: float
    """Least-squares gain added to the part, either way."""
    error: float
    """Root mean square error of the part, as a multiple of the honest one."""
    block: float
    """The same of any single block."""
    column: float
    """The same of any single column."""
    scale: float
    """Relative difference of any single scale from the honest one."""
    scale_median: float
    """Relative difference of the middle scale."""


TIGHT = Limits(gain=0.003, error=1.05, block=1.5, column=1.5, scale=0.03, scale_median=0.002)
"""For the recipe's own rounding.

Only AWQ is not reproduced bit for bit; the largest values over the 210 parts of a healthy
SmolLM2-135M export (ModelOpt 0.47.0) were: gain 0.0009, error 1.002, block 1.05, scale 0.013,
scale_median 0.0001. A 3 % gain error in one tensor is ten times the limit.
"""

WIDE = Limits(gain=0.01, error=1.5, block=3.0, column=3.0, scale=np.inf, scale_median=np.inf)
"""For another valid rounding of the same format.

Rounding errors diffused as GPTQ does cost 1.12 times the nearest rounding's error on the tiny
model, random rounding 1.45 times; both moved the gain by less than 0.007.
"""

FEEDBACK = Limits(gain=0.01, error=2.25, block=16.0, column=16.0, scale=np.inf, scale_median=np.inf)
"""Up to which an error may still be that of another rounding, and is doubt.

GPTQ by the inputs that SmolLM2-135M has on 2,500 tokens, damped by a hundredth, had 1.2 to 2.05
times the nearest rounding's error, single blocks up to 14 times, and a gain within 0.003; damped
by a tenth, 1.1 to 1.4 times.
"""

_TAIL = 0.02
"""Share of the blocks that are worse than another rounding usually makes them, of which feedback
may make a block still worse; of strongly correlated inputs it was one of 90 to 590."""

SAME_ROUNDING = 0.95
"""Share of equal codes above which the rounding is the recipe's; healthy AWQ had 0.994."""

_NO_WORSE = 1.02
"""Error ratio up to which another rounding is as good as the nearest one: a clipped scale then
lowers the gain (by up to 2.5 % for groups of 32) and the error with it."""

_COLUMN_GAIN = 0.01
"""Twice and a half what bfloat16 rounding of the pre-quant vector changes a column by."""

_OF_NORMAL_NUMBERS = (
    WeightFormat.INT8_CHANNEL,
    WeightFormat.FP8_CHANNEL,
    WeightFormat.FP8_TENSOR,
)
"""Formats whose scales are those of a normal number of the dtype at least."""

_E4M3_UNIT = 2.0**-3
"""Largest relative distance of two neighbouring scales of NVFP4."""

_SIGMAS = 4.0
"""Standard errors of what rounding at random adds to a gain."""

_RANDOM = 0.25
"""Largest variance of rounding to one of two neighbours, in squared steps."""

_CLIPPED = 0.05
"""What clipping or a margin may take from the energy of a part, if that is no worse for it."""

_NEARLY_ALL = 0.95
"""Share of the runs of groups whose scales are one number, above which they were shared."""

_POWER_OF_TWO = 0.5
"""Mantissa of one, in [0.5, 1)."""

_NEAREST = 0.25
"""Largest squared error of the nearest number, in squared steps."""

_INTEGERS = (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL)
_LARGEST_OF_INTEGERS = 4.0

_SMALLEST_RATIO, _LARGEST_RATIO = 1 / 4, 8.0
"""Of a scale to the honest one, whatever the rounding: clipping halves a scale at most, powers of
two and sharing with other linears enlarge it a few times."""

HONEST_FLOOR = 0.25
"""Of the part's mean honest squared error: blocks that happen to round well are not held to it."""


@dataclass(frozen=True)
class Judgement:
    """What is wrong with a part: nothing, or at least one of these."""

    limits: Limits
    gain: float | None = None
    error: float | None = None
    blocks: Mask | None = None
    """True where a (row, block) is worse than the limit."""
    columns: Mask | None = None
    scales: Mask | None = None
    """True where a scale is further from the honest one than the limit."""
    beyond: float | None = None
    """Share of the codes that no rounding of the weight gives, if it is more than a few."""
    doubtful: bool = False
    """Whether the difference is so small that rounding may explain it."""

    @property
    def honest(self) -> bool:
        """Whether nothing was found."""
        found = (self.gain, self.error, self.blocks, self.columns, self.scales, self.beyond)
        return all(item is None for item in found)

    @property
    def other_rounding(self) -> bool:
        """Whether it is honest, and other codes or scales than the recipe's nearest."""
        return self.honest and self.limits is WIDE


def judge(stats: PartStatistics) -> Judgement:
    """Holds a part against the limits that fit how it was rounded."""
    if stats.exact:
        return Judgement(TIGHT)
    ratio = scale_ratio(stats)
    deviation = np.abs(ratio - 1)
    half = rounded_to_half(stats, deviation)
    if stats.same_codes == 1.0:
        return Judgement(TIGHT, scales=None if half else _any(~(deviation <= SAME_SCALE)))
    as_told = _as_the_recipe_rounds(stats, ratio)
    # What smoothing leaves open hides a factor of a percent from codes that are the recipe's.
    if not (as_told and stats.divisor is not None) and not stats.followed().missed.any():
        return _with_chosen_scales(stats, ratio)
    if half:
        stats = _with_rounded_scales(stats, deviation)
    limits = TIGHT if as_told else WIDE
    may_gain = limits.gain + (_weighted(stats, deviation) if half else 0)
    if limits is WIDE:
        may_gain += _SIGMAS * _gain_by_chance(stats)
    gain, error = _gain_and_error(stats, limits)
    if half and stats.divisor is not None:
        gain = min(gain, stats.in_source[0], key=abs)
        error = min(error, stats.in_source[1])
    blocks = _damaged(stats, limits)
    if limits is TIGHT:
        blocks |= stats.blocks.strays > 0
    absurd = _absurd(stats, ratio)
    if limits is WIDE and error <= _NO_WORSE and gain <= may_gain:
        return _or_absurd(Judgement(limits, blocks=_any(blocks)), absurd)
    judgement = Judgement(
        limits,
        gain=gain if not abs(gain) <= may_gain else None,
        error=None if error <= limits.error or _random(stats, limits) else error,
        blocks=_any(blocks),
        columns=_any(_worn(stats.per_column, limits) & _moved(stats.per_column)),
        scales=None if half else _any(_wrong_scales(stats, ratio, limits)),
    )
    if judgement.other_rounding and stats.leaning().aside:
        judgement = replace(judgement, error=error)
    judgement = _or_other_weights(stats, ratio, _or_absurd(judgement, absurd))
    return _or_doubtful(stats, judgement)


def _with_chosen_scales(stats: PartStatistics, ratio: Floats) -> Judgement:
    """Judges a part all of whose codes are the nearest under its scales, whoever chose those.

    No weight is another one then. What is left is how well the scales were chosen: errors say.
    """
    error, columns = min(stats.error_ratio, stats.in_source[1]), stats.per_column
    nearest = columns.error <= _NEAREST * columns.coarsest * (1 + BFLOAT16_ROUNDING)
    if nearest.all():  # else the loudest were clipped
        error = min(error, stats.quiet_error_ratio)
    gain = min(stats.gain, stats.in_source[0], key=abs)
    absurd = _absurd(stats, ratio) | _shared(stats)
    if stats.kind in _INTEGERS:  # which a scale shared with others costs what it is larger
        absurd |= (ratio > _LARGEST_OF_INTEGERS) & _felt(stats)
    judgement = Judgement(
        WIDE,
        gain=gain if error > _NO_WORSE and not abs(gain) <= _CLIPPED else None,
        error=None if error <= WIDE.error else error,
        blocks=_any(_damaged(stats, WIDE)),
        doubtful=error <= FEEDBACK.error and not (absurd & _felt(stats)).any(),
    )
    return _or_absurd(judgement, absurd)


def _felt(stats: PartStatistics) -> Mask:
    """Scales of weights that are not far below what rounding makes of the others anyway."""
    error, honest = (
        _per_scale(stats, cells) for cells in (stats.blocks.error, stats.blocks.honest)
    )
    felt: Mask = ~(error <= HONEST_FLOOR * honest.mean())
    return felt


def _shared(stats: PartStatistics) -> Mask:
    """Scales that groups beside each other share, all over, where the recipe gives each its own."""
    none: Mask = np.zeros(stats.scales.shape, np.bool_)
    if not (np.frexp(stats.scales)[0] != _POWER_OF_TWO).any():
        return none  # which most weights of one matrix have the same of
    groups = stats.scales.shape[1]
    for run in {2, groups} - {1}:
        if groups % run == 0 and (
            _alike(stats.scales, run) >= _NEARLY_ALL
            and _alike(stats.honest_scales, run) < _NEARLY_ALL / 2
        ):
            return ~none
    return none


def _alike(scales: Floats, run: int) -> float:
    """Returns the share of the runs of groups that have one number."""
    runs = scales.reshape(len(scales), -1, run)
    return float((runs == runs[..., :1]).all(axis=-1).mean())


def _absurd(stats: PartStatistics, ratio: Floats) -> Mask:
    """Scales that no rounding explains."""
    within: Mask = (ratio >= _SMALLEST_RATIO) & (ratio <= _LARGEST_RATIO)
    return ~within & ~_below_normal(stats)


def _gain_and_error(stats: PartStatistics, limits: Limits) -> tuple[float, float]:
    """Of another rounding the smaller ones, of the smoothed weights or of the source's.

    What the nearest codes under the stored scales would have gained is none of the rounding's.
    """
    gain, error = stats.gain, stats.error_ratio
    if limits is not WIDE:
        return gain, error
    own_gain, own_error = stats.in_source
    error = min(error, own_error)
    if abs(gain) > limits.gain:
        gain = min(gain, own_gain, gain - stats.followed().gain, key=abs)
    return gain, error


def _or_other_weights(stats: PartStatistics, ratio: Floats, judgement: Judgement) -> Judgement:
    """Says so where codes and scales are those of another model's weights."""
    if judgement.limits is WIDE and of_other_weights(stats, ratio):
        return replace(judgement, beyond=stats.followed().beyond)
    return judgement


def _or_doubtful(stats: PartStatistics, judgement: Judgement) -> Judgement:
    """Leaves open what feedback of rounding errors may have made, if codes lean to no side."""
    told = (judgement.gain, judgement.scales, judgement.beyond)
    if judgement.limits is not WIDE or any(one is not None for one in told):
        return judgement
    if judgement.honest:
        beyond = stats.followed().beyond
        return replace(judgement, beyond=beyond, doubtful=True) if beyond > BEYOND else judgement
    if judgement.error is not None and judgement.error > FEEDBACK.error:
        return judgement
    if _stands_out(stats.blocks) or _worse(stats.per_column, FEEDBACK.column).any():
        return judgement
    return judgement if stats.leaning().aside else replace(judgement, doubtful=True)


def _stands_out(blocks: Comparison) -> bool:
    """Says whether blocks are worse than feedback makes them, and not the end of a long tail."""
    beyond, worse = (int(_worse(blocks, limit.block).sum()) for limit in (FEEDBACK, WIDE))
    return beyond > worse * _TAIL


def _as_the_recipe_rounds(stats: PartStatistics, ratio: Floats) -> bool:
    """Says whether the codes are the recipe's: nearly all, and not rather those of other scales."""
    unmoved = stats.blocks.strays.any() and abs(stats.gain) <= TIGHT.gain
    by_another = unmoved and stats.changed.by_another_rule(1 - SAME_ROUNDING)
    if stats.same_codes < SAME_ROUNDING or by_another:
        return False
    return not (_middle(ratio) > TIGHT.scale_median and stats.followed().equal > stats.same_codes)


def _gain_by_chance(stats: PartStatistics) -> float:
    """Returns the standard error of a gain where codes are rounded at random.

    Where a few weights hold most of the energy, how they happen to be rounded is the gain.
    """
    blocks, energy = stats.blocks, stats.blocks.energy.sum()
    each = stats.columns / blocks.energy.shape[1]
    variance = _RANDOM * (blocks.energy * blocks.coarsest).sum() / each
    return float(np.sqrt(variance) / energy) if energy else 0.0


def _middle(ratio: Floats) -> float:
    """Returns how far the middle scale is off.

    Signed: rounding to half precision moves scales both ways, a factor all of them one way.
    """
    return abs(float(np.median(ratio)) - 1)


def _weighted(stats: PartStatistics, deviation: Floats) -> float:
    """Returns how far a weight's gain is off if its scales are and its codes are not."""
    energy = _per_scale(stats, stats.blocks.energy)
    return float((deviation * energy).sum() / energy.sum())


def _with_rounded_scales(stats: PartStatistics, deviation: Floats) -> PartStatistics:
    """Adds to the honest error of each block what storing its scale rounded makes of it."""
    blocks = stats.blocks
    columns = blocks.energy.shape[1] // deviation.shape[1]
    moved = np.repeat(deviation.astype(np.float64), columns, axis=1)
    honest = (np.sqrt(blocks.honest) + moved * np.sqrt(blocks.energy)) ** 2
    return replace(stats, blocks=replace(blocks, honest=honest))


def _damaged(stats: PartStatistics, limits: Limits) -> Mask:
    """Blocks worse than the limit, but for those that another valid rounding may have made so.

    Those whose scale is no worse over all it is for (clipping trades one weight for many), and,
    of another rounding, those within a step of the source.
    """
    blocks = stats.blocks
    traded = _per_scale(stats, blocks.error) <= _NO_WORSE**2 * _per_scale(stats, blocks.honest)
    worse = _worse(blocks, limits.block)
    worse &= ~np.repeat(traded, worse.shape[1] // traded.shape[1], axis=1)
    if stats.divisor is not None and stats.kind is WeightFormat.INT8_CHANNEL:
        # What was rounded is not known to the last digit.
        worse &= ~(blocks.error <= _NEAREST * blocks.coarsest)
    if limits is WIDE or not worse.any():
        return worse & ~_within_steps(blocks) if limits is WIDE else worse
    chosen = _chosen(stats)
    return worse & ~np.repeat(chosen, worse.shape[1] // chosen.shape[1], axis=1)


def _chosen(stats: PartStatistics) -> Mask:
    """Scales that are others where a recipe leaves that open, and that all codes follow.

    NVFP4's by a unit: its two scales may share their product otherwise. Those of weights that are
    below the normal numbers. Any other scale that is off by as much is damage that moved no code.
    """
    deviation = np.abs(scale_ratio(stats) - 1)
    if stats.kind is WeightFormat.NVFP4:
        other: Mask = (deviation > SAME_SCALE) & (deviation <= _E4M3_UNIT)
    else:
        other = (deviation > SAME_SCALE) & _below_normal(stats)
    return other & ~stats.followed().missed if other.any() else other


def _below_normal(stats: PartStatistics) -> Mask:
    """Scales that the smallest normal number of the dtype gave, if no code is off by over a step.

    Another exporter's are those of the weights, as small as they are.
    """
    if stats.kind not in _OF_NORMAL_NUMBERS:
        return np.zeros(stats.scales.shape, np.bool_)
    least = stats.step / stats.unit / np.float32(code_range(stats.kind)[1])
    below: Mask = stats.honest_scales <= least
    if not below.any():
        return below
    error, coarsest = (
        _per_scale(stats, cells) for cells in (stats.blocks.error, stats.blocks.coarsest)
    )
    return below & (error <= coarsest)


def _worn(columns: Comparison, limits: Limits) -> Mask:
    """Columns worse than the limit, but for those another rounding may have made so."""
    worse = _worse(columns, limits.column)
    return worse & ~_within_steps(columns) if limits is WIDE else worse


def _within_steps(cells: Comparison) -> Mask:
    within: Mask = cells.error <= cells.coarsest
    return within


def _random(stats: PartStatistics, limits: Limits) -> bool:
    """Says whether rounding at random explains the error: a quarter of a squared step at most."""
    error, coarsest = stats.blocks.error.sum(), stats.blocks.coarsest.sum()
    return bool(limits is WIDE and error <= _RANDOM * coarsest)


def _or_absurd(judgement: Judgement, absurd: Mask) -> Judgement:
    """Blames scales that no rounding explains: all of them, or where nothing else is wrong."""
    blamed = judgement.honest or absurd.all()
    return replace(judgement, scales=_any(absurd)) if blamed else judgement


def _wrong_scales(stats: PartStatistics, ratio: Floats, limits: Limits) -> Mask:
    """Scales that are off and that the codes do not follow: what they scale is worse for it."""
    deviation = np.abs(ratio - 1)
    if _middle(ratio) > limits.scale_median:
        return deviation > limits.scale_median
    error, honest = (
        _per_scale(stats, cells) for cells in (stats.blocks.error, stats.blocks.honest)
    )
    known = stats.step / (stats.honest_scales * code_range(stats.kind)[1])
    off: Mask = ~(deviation <= limits.scale + 2 * known) & ~(error <= _NO_WORSE**2 * honest)
    return off & stats.followed().missed if off.any() else off


def _per_scale(stats: PartStatistics, cells: Sums) -> Sums:
    sums: Sums = cells.reshape(*stats.scales.shape, -1).sum(axis=2)
    return sums


def judge_plain(stats: PartStatistics) -> Judgement:
    """Holds an unquantized part against the source: equal bit for bit, or else in doubt or wrong.

    Differences of one unit in the last place are what another conversion (truncation) would give;
    a single weight that is further off is damage, however little it is of its block.
    """
    if stats.exact:
        return Judgement(TIGHT)
    blocks = stats.blocks
    unit = (blocks.error <= stats.unit**2 * blocks.energy) & (blocks.strays == 0)
    small = bool(unit.all()) and abs(stats.gain) <= TIGHT.gain
    gain = stats.gain if abs(stats.gain) > TIGHT.gain else None
    return Judgement(TIGHT, gain=gain, blocks=_any(~(blocks.error <= 0)), doubtful=small)


def _worse(cells: Comparison, limit: float) -> Mask:
    touched = cells.energy > 0
    if not touched.any():
        return touched
    floor = HONEST_FLOOR * cells.honest[touched].mean()
    # Written so that NaN counts as worse. Of zeros an honest export makes zeros.
    worse: Mask = ~(cells.error <= limit**2 * np.maximum(cells.honest, floor))
    return worse


def _moved(cells: Comparison) -> Mask:
    """Columns whose gain moved by more than the rounding of the pre-quant vector can explain."""
    with np.errstate(divide="ignore", invalid="ignore"):
        moved: Mask = ~(np.abs(cells.excess / cells.energy) <= _COLUMN_GAIN)
    return moved


def _any(mask: Mask) -> Mask | None:
    return mask if mask.any() else None
