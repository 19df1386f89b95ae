"""Which parts of a linear an honest exporter rounded otherwise than to the nearest code.

Clipping searches, error feedback (GPTQ) and random rounding choose scales and codes by the data
they were calibrated on, as other recipes learn a pre-quant vector. Two of them differ from each
other as much as each from the source, so nothing but the checkpoint can say which was chosen.
"""

from __future__ import annotations

from enginekeeper.validation.numerics.mapping import LinearPlace
from enginekeeper.validation.numerics.recipes import WeightFormat
from enginekeeper.validation.numerics.reproduction import Reproduction, StoredParts
from enginekeeper.validation.weight_judgement import judge
from enginekeeper.validation.weight_statistics import measure


def is_rounded_otherwise(
    stored: StoredParts, reproduction: Reproduction, place: LinearPlace, index: int
) -> bool:
    """Says whether one part is another valid rounding, by the audit's own judgement of it."""
    if reproduction.recipe.format is WeightFormat.PLAIN:
        return False
    stats = measure(stored, reproduction, index, place.columns, place.parts[index])
    return not stats.not_finite and judge(stats).other_rounding
