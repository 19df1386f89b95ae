"""Which parts of a linear an honest exporter rounded otherwise than to the nearest code.

Clipping searches, error feedback (GPTQ) and random rounding choose scales and codes by the data
they were calibrated on, as other recipes learn a pre-quant vector. Two of them differ from each
other as much as each from the source, so nothing but the checkpoint can say which was chosen.
"""

from __future__ import annotations

from enginekeeper.validation.checkpoint import AssembledLinear
from enginekeeper.validation.numerics.mapping import LinearPlace
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat
from enginekeeper.validation.numerics.reproduction import Reproduction
from enginekeeper.validation.weight_census import recipe_findings
from enginekeeper.validation.weight_judgement import judge
from enginekeeper.validation.weight_statistics import measure


def is_rounded_otherwise(
    stored: AssembledLinear, reproduction: Reproduction, place: LinearPlace, index: int
) -> bool:
    """Says whether one part is another valid rounding, by the audit's own judgement of it.

    The linear has to be as announced: nothing else can be compared number by number.
    """
    stats = measure(stored, reproduction, index, place.columns, place.parts[index])
    return not stats.not_finite and judge(stats).other_rounding


def is_as_announced(stored: AssembledLinear, recipe: LinearRecipe) -> bool:
    """Says whether a quantized linear has the format, groups and scales that its recipe gives."""
    if recipe.format is WeightFormat.PLAIN:
        return False
    return not any(finding.result == "fail" for finding in recipe_findings(stored, recipe))
