"""Names what is wrong with a part that is not an honest export: the class, the place, the size.

Each hypothesis is a small test on what is stored; the first that explains the damage is told.
Where none does, the damage itself is described.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import BFLOAT16_ROUNDING, Floats
from enginekeeper.validation.numerics.recipes import WeightFormat
from enginekeeper.validation.weight_judgement import (
    SAME_ROUNDING,
    Indices,
    Judgement,
    Mask,
)
from enginekeeper.validation.weight_order import other_order
from enginekeeper.validation.weight_roundings import LEANING
from enginekeeper.validation.weight_scales import scale_ratio
from enginekeeper.validation.weight_statistics import PartStatistics
from enginekeeper.validation.weight_suspects import (
    Suspect,
    integers,
    other_heads,
    other_linear,
    other_rows,
)

_MOST = 0.5
"""Share above which something is said of the whole."""

_NEARLY_ALL = 0.8
"""Share of integers that must follow a rule before the rule is told."""

_FEW = 0.1
"""Share of the columns up to which they are named one by one."""

_SPREAD = 0.5
"""Relative spread of a column's gain over the rows when it is one factor and not a few rows."""

_ALIKE = 0.8
"""Cosine above which a stored column is taken to be the source's, times a factor."""

_ROUNDED_ANEW = 1.5
"""Error, gain apart, of another rounding as a multiple of the honest one's."""

_SAME_VECTOR = 0.02
"""Spread of the columns' factors that rounding explains."""

_WHOLE_LAYER = 7
"""Parts of a layer: q, k, v, dense, fc, gate, proj."""

_TINY = float(np.finfo(np.float64).tiny)

_LAYER = re.compile(r"transformer\.layers\.\d+\.")

_A_FEW = 4.0
"""Errors over the honest one up to which codes are near the right ones."""

_SAME_GAIN = 0.1
"""Relative difference of the gains of fused parts that are off by one factor."""

_SAME_FACTOR = 0.02
"""Relative spread of scale errors that are taken to be one factor."""


@dataclass(frozen=True)
class Diagnosis:
    """The words of a finding."""

    taxonomy: str
    message: str
    actual: object = None
    expected: object = None
    explains: bool = True
    """Whether a mechanism was found, so that a fair rounding is none; else it is a description."""


def diagnose(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis:
    """Returns the first hypothesis that explains the damage."""
    for hypothesis in _HYPOTHESES:
        diagnosis = hypothesis(suspect, stats, judgement)
        if diagnosis is not None:
            return diagnosis
    return _described(stats, judgement)


def _ones(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """All scales are 1: what is assumed where there is none."""
    del suspect
    if judgement.scales is None or not (stats.scales == 1).all():
        return None
    return Diagnosis(
        "T2",
        "every scale is 1, as where none was stored",
        1.0,
        float(np.median(stats.honest_scales)),
    )


def _vector(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The columns are the right ones, each with a factor of its own: another pre-quant vector."""
    vector = suspect.stored.prequant
    if vector is None or (judgement.blocks is None and judgement.columns is None):
        return None
    if stats.same_codes >= SAME_ROUNDING and _mostly(judgement.scales):
        return None  # under another vector the codes would be others
    ratio, cosine = suspect.column_fit()
    known = cosine > _ALIKE
    if known.mean() <= _MOST:
        return None
    # A wrong scale moves all columns it is for alike; only a wrong vector tells them apart.
    with np.errstate(divide="ignore"):
        logs = np.where(known, np.log(np.abs(ratio)), np.nan)
    groups = logs.reshape(stats.scales.shape[1], -1)
    groups = groups[np.isfinite(groups).sum(axis=1) > 1]
    if not len(groups) or float(np.median(np.nanstd(groups, axis=1))) <= _SAME_VECTOR:
        return None
    off = np.flatnonzero(known & (np.abs(ratio - 1) > _SAME_VECTOR))
    if not _one_factor_each(suspect.column_gains(off)):
        return None
    typical = float(np.median(np.abs(ratio[off])))
    return Diagnosis(
        "T9",
        f"the pre-quant vector does not fit {len(off)} of {stats.columns} columns of the weight's "
        f"input: what it leaves is typically {typical:.4g} times what it should be",
        f"x {typical:.4g}",
        "x 1",
    )


def _gain(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The weight is the right one times a factor, rounded anew: quantized with another scale."""
    if judgement.gain is None or suspect.stored.prequant is not None:
        return None
    gain, blocks = stats.gain, stats.blocks
    energy = float(blocks.energy.sum())
    # The error of an unquantized weight that was multiplied is one of bfloat16.
    rounding = max(float(blocks.honest.sum()), BFLOAT16_ROUNDING**2 * energy)
    rest = float(blocks.error.sum()) - gain**2 * energy
    if not rest <= (_ROUNDED_ANEW * (1 + abs(gain))) ** 2 * rounding:
        return None
    columns = stats.per_column
    typical = float(np.median(columns.excess / np.maximum(columns.energy, _TINY)))
    if abs(typical - gain) > _SPREAD * abs(gain):
        return None  # a few columns make it, the others are right
    return Diagnosis(
        "T6" if _of_a_part(suspect) else "T1",
        f"the weight is {1 + gain:.4g} times what it should be: it was rounded with another scale "
        "than the one that is stored",
        f"x {1 + gain:.4g}",
        "x 1",
    )


def _one_factor_each(gains: Floats) -> bool:
    """Says whether most columns are off by a factor that is the same in all quarters of rows."""
    middle = gains.mean(axis=0)
    steady = (np.abs(gains - middle) <= _SPREAD * np.abs(middle)).all(axis=0)
    return bool(steady.mean() > _MOST)


def _columns(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """A few input columns are off by the same factor in all rows: the pre-quant vector is wrong."""
    if judgement.columns is None or suspect.stored.prequant is None:
        return None
    columns = np.flatnonzero(judgement.columns)
    if len(columns) > max(_FEW * stats.columns, 1):
        return None
    gains = suspect.column_gains(columns)
    if (np.abs(gains - gains.mean(axis=0)) > _SPREAD * np.abs(gains.mean(axis=0))).any():
        return None
    typical = 1 + float(np.median(gains.mean(axis=0)))
    return Diagnosis(
        "T9",
        f"the pre-quant vector does not fit the weight in {_range(columns, 'columns')} of the "
        f"input: typically {typical:.4g} times what it should give",
        f"x {typical:.4g}",
        "x 1",
    )


def _scales(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The codes are right and the scales are not."""
    del suspect
    if judgement.scales is None:
        return None
    ratio, wrong = scale_ratio(stats), judgement.scales
    typical = float(np.median(ratio[wrong]))
    whole = _scale_layout(stats) if wrong.mean() > _MOST else None
    if whole is not None:
        return whole
    where = _scales_text(wrong, stats.columns // wrong.shape[1])
    return Diagnosis(
        "T3" if wrong.size > 1 else "T1",
        f"{int(wrong.sum())} of {wrong.size} scales are wrong ({where}), "
        f"typically {typical:.4g} times what they should be",
        f"x {typical:.4g}",
        "x 1",
    )


def _scale_layout(stats: PartStatistics) -> Diagnosis | None:
    """Tests for scales that are all wrong in one way: out of order, powers of two."""
    honest, stored = stats.honest_scales, stats.scales
    in_order = np.sort(stored, axis=None), np.sort(honest, axis=None)
    if stored.size > 1 and np.allclose(*in_order, rtol=_SAME_FACTOR):
        return Diagnosis("T3", "the scales are the right ones in the wrong order (layout)")
    if _powers_of_two(stored) and not _powers_of_two(honest):
        return Diagnosis(
            "T7", "the scales are rounded to powers of two and the weight was not requantized"
        )
    return None


def _reciprocal(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """All scales are one over what they should be."""
    del suspect
    honest, stored = stats.honest_scales, stats.scales
    if judgement.scales is None or not np.allclose(stored * honest, 1, rtol=_SAME_FACTOR):
        return None
    middle = float(np.median(stored)), float(np.median(honest))
    return Diagnosis("T2", "the scales are stored as reciprocals", *middle)


def _of_a_part(suspect: Suspect) -> bool:
    """Says whether a factor is that of one part of a fused tensor, and not of the whole."""
    shared = suspect.format in (WeightFormat.FP8_TENSOR, WeightFormat.NVFP4)
    if len(suspect.place.scale_group) == 1 or not shared:
        return False
    low, high = min(suspect.gains), max(suspect.gains)
    alike = high - low <= _SAME_GAIN * max(abs(low), abs(high))
    return len(suspect.gains) == 1 or not alike


def _one_factor(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """All scales are off by the same factor."""
    if judgement.scales is None or judgement.scales.mean() <= _MOST:
        return None
    ratio = scale_ratio(stats)[judgement.scales]
    typical = float(np.median(ratio))
    if np.abs(ratio / typical - 1).max() >= _SAME_FACTOR:
        return None
    if stats.same_codes < SAME_ROUNDING and abs(stats.gain + 1 - typical) > _SPREAD * typical:
        return None  # nor are the codes right
    taxonomy = "T1"
    if _of_a_part(suspect):
        taxonomy = "T6"
    elif suspect.format is WeightFormat.FP8_TENSOR and abs(np.log2(typical)) == 1:
        taxonomy = "T12"
    return Diagnosis(
        taxonomy,
        f"every scale is {typical:.4g} times what it should be",
        float(np.median(stats.scales)),
        float(np.median(stats.honest_scales)),
    )


def _zeros(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The wrong blocks hold nothing."""
    del stats
    if judgement.blocks is None:
        return None
    empty_columns = _empty_columns(suspect, judgement)
    if empty_columns is not None:
        return empty_columns
    rows = np.flatnonzero(judgement.blocks.any(axis=1))
    zeros = 0
    for row in rows:
        stored, honest = suspect.row(int(row))
        empty = int(((stored == 0) & (honest != 0)).sum())
        other = int(((stored != honest) & (stored != 0)).sum())
        if empty <= other:
            return None
        zeros += empty
    last = suspect.part.rows - 1
    if rows[-1] == last and len(rows) == last - rows[0] + 1 and len(rows) < suspect.part.rows:
        which = f"the last {len(rows)} rows (a truncated shard)"
    else:
        which = _range(rows)
    return Diagnosis("T25", f"{zeros} weights are zero that should not be, in {which}", 0)


def _empty_columns(suspect: Suspect, judgement: Judgement) -> Diagnosis | None:
    """Every damaged column holds nothing at all."""
    if judgement.columns is None:
        return None
    columns = np.flatnonzero(judgement.columns)
    ratio, _ = suspect.column_fit()
    if ratio[columns].any():
        return None
    return Diagnosis("T25", f"{_range(columns, 'columns')} of the input are zero", 0)


def _elsewhere(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The rows are honest, but those of another head, layer or linear."""
    del stats
    if judgement.blocks is None:
        return None
    bad = judgement.blocks.mean(axis=1) > _MOST
    swapped = other_heads(suspect, bad)
    if swapped:
        text = ", ".join(f"head {here} holds head {there}" for here, there in swapped)
        return Diagnosis("T14", f"heads are in the wrong place: {text}")
    if bad.mean() > _MOST:
        name = other_linear(suspect)
        if name is not None:
            return Diagnosis("T26", f"the weight is that of {name}", name, suspect.label)
    return None


def _few_rows(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The rows are honest, but some of them in each other's places."""
    del stats
    if judgement.blocks is None:
        return None
    bad = judgement.blocks.mean(axis=1) > _MOST
    moved = other_rows(suspect, np.flatnonzero(bad))
    if moved:
        text = ", ".join(f"row {here} holds row {there}" for here, there in moved[:4])
        return Diagnosis("T25", f"rows are in the wrong place: {text}")
    return None


def _codes(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The integers of the worst rows follow a rule: a constant, a sign, another place in a byte."""
    grouped = suspect.format is WeightFormat.INT4_GROUP
    if judgement.blocks is None or not (grouped or suspect.format is WeightFormat.INT8_CHANNEL):
        return None
    row = int(np.argmax(judgement.blocks.sum(axis=1))) // 2 * 2
    if row + 1 >= suspect.part.rows:
        return None
    pair = slice(row, row + 2)
    both = zip(suspect.row(row), suspect.row(row + 1), strict=True)
    stored, honest = (np.stack(rows) for rows in both)
    found = integers(stored, stats.scales[pair])
    wanted = integers(honest, stats.honest_scales[pair])
    blocks = judgement.blocks[pair]
    damaged = np.repeat(blocks, stats.columns // blocks.shape[1], axis=1)
    shifted = _shifted((found - wanted)[damaged], 8 if grouped else 128)
    return shifted or (_misplaced(found, wanted) if grouped else None)


def _shifted(change: Floats, half: int) -> Diagnosis | None:
    """Tests for a constant that was added, or a half of the range where it should not be."""
    shift = float(np.median(change))
    if shift and (change == shift).mean() > _NEARLY_ALL:
        return Diagnosis("T4", f"every integer is shifted by {shift:+g} (zero point)", shift, 0)
    if (np.abs(change) == half).mean() > _NEARLY_ALL:
        message = f"every integer is off by {half}: unsigned ones are read as signed"
        return Diagnosis("T4", message, half, 0)
    return None


def _misplaced(found: Floats, wanted: Floats) -> Diagnosis | None:
    """Tests for right integers of two rows that share bytes, in each other's places."""
    if (found == wanted[::-1]).mean() > _NEARLY_ALL:
        return Diagnosis("T5", "the two nibbles of every byte are exchanged")
    if (found.T.reshape(-1) == wanted.reshape(-1)).mean() > _NEARLY_ALL:
        return Diagnosis("T5", "pairs of inputs are packed where pairs of outputs are read")
    return None


def _leaning(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The codes are near the right ones, all to one side of them, or of one kind only."""
    if suspect.format is WeightFormat.PLAIN or not _within(stats, judgement):
        return None
    leaning = stats.leaning()
    if not leaning.aside:
        return None
    if max(abs(leaning.mean), abs(leaning.outward)) <= LEANING:
        message = f"of {leaning.odd:.1%} of the codes the lowest bit is set: it is not used"
        return Diagnosis("T25", message, leaning.odd, leaning.nearest_odd)
    if abs(leaning.mean) > abs(leaning.outward):
        message = f"codes are {leaning.mean:+.2f} steps off on average: rounded to one side"
        return Diagnosis("T4", message, leaning.mean, 0)
    message = f"codes are {leaning.outward:+.2f} steps farther from zero than weights on average"
    return Diagnosis("T25", message, leaning.outward, 0)


def _within(stats: PartStatistics, judgement: Judgement) -> bool:
    near = judgement.scales is None and (judgement.error or 0.0) < _A_FEW
    return near and stats.same_codes < SAME_ROUNDING


def _order(suspect: Suspect, stats: PartStatistics, judgement: Judgement) -> Diagnosis | None:
    """The numbers are the right ones, in another order."""
    del stats
    order = other_order(suspect, judgement)
    return None if order is None else Diagnosis(order.taxonomy, order.message)


def _described(stats: PartStatistics, judgement: Judgement) -> Diagnosis:
    told = []
    if judgement.gain is not None:
        told.append(f"its gain is off by {judgement.gain:+.4f}")
    if judgement.error is not None:
        told.append(f"its error is {judgement.error:.3g} times an honest export's")
    if judgement.blocks is not None:
        rows = np.flatnonzero(judgement.blocks.any(axis=1))
        told.append(f"{int(judgement.blocks.sum())} blocks in {_range(rows)} differ")
    if judgement.columns is not None:
        columns = np.flatnonzero(judgement.columns)
        told.append(f"{_range(columns, 'columns')} of the input are damaged")
    taxonomy = "T25"
    if judgement.blocks is None and judgement.error is None:
        taxonomy = "T1" if judgement.columns is None else "T9"
    if judgement.beyond is not None:
        told.append(f"{judgement.beyond:.2%} of the codes are more than a step from the source's")
        told.append("another revision, tuned or merged weights")
    if judgement.doubtful:
        told.append("errors fed back to other columns (GPTQ) may be that large: behaviour decides")
    return Diagnosis(
        taxonomy,
        "the weight is not what the recipe makes of the source: " + "; ".join(told),
        f"gain {stats.gain:+.4f}",
        f"gain within {judgement.limits.gain:g}",
        explains=False,
    )


def _mostly(mask: Mask | None) -> bool:
    return mask is not None and bool(mask.mean() > _MOST)


def _powers_of_two(values: Floats) -> bool:
    mantissa, _ = np.frexp(values)
    return bool((mantissa == 0.5).all())  # noqa: PLR2004 - frexp's mantissa of a power of two


def _scales_text(wrong: Mask, group: int) -> str:
    rows = _range(np.flatnonzero(wrong.any(axis=1)))
    if wrong.shape[1] == 1:
        return rows
    groups = _range(np.flatnonzero(wrong.any(axis=0)), "groups")
    return f"{rows}, input {groups} of {group} columns"


def _range(indices: Indices, noun: str = "rows") -> str:
    if len(indices) == 1:
        return f"{noun.removesuffix('s')} {indices[0]}"
    if len(indices) == indices[-1] - indices[0] + 1:
        return f"{noun} {indices[0]} to {indices[-1]}"
    return f"{len(indices)} {noun} between {indices[0]} and {indices[-1]}"


def copied_layers(findings: list[Finding]) -> list[Finding]:
    """Says once, and first, that a layer holds another layer's weights, instead of part by part."""
    copies: dict[str, list[str]] = {}
    for finding in findings:
        here, there = _LAYER.match(finding.where), _LAYER.match(str(finding.actual))
        if finding.taxonomy == "T26" and here and there:
            copies.setdefault(here[0], []).append(there[0])
    whole = {
        layer: names[0]
        for layer, names in copies.items()
        if len(names) >= _WHOLE_LAYER and len(set(names)) == 1 and names[0] != layer
    }
    named = [
        Finding(
            "weights.fidelity",
            "fail",
            layer.removesuffix("."),
            f"the layer holds the weights of {other.removesuffix('.')}",
            other.removesuffix("."),
            layer.removesuffix("."),
            "T26",
        )
        for layer, other in whole.items()
    ]
    rest = [f for f in findings if not any(f.where.startswith(layer) for layer in whole)]
    return named + rest


_HYPOTHESES = (
    _ones,
    _reciprocal,
    _one_factor,
    _gain,
    _zeros,
    _elsewhere,
    _codes,
    _order,
    _few_rows,
    _columns,
    _vector,
    _scales,
    _leaning,
)
"""In this order: the first that explains the damage is told."""
