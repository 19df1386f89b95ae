"""What the weight audit counts: what a reader needs to know how much a pass says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from enginekeeper.validation.weight_certificate import Certificate
from enginekeeper.validation.weight_statistics import PartStatistics

_NO_HONEST_ERROR = 1e9
"""Stands for an error where an honest export makes none: infinity is no JSON."""


@dataclass
class Counts:
    """What a reader needs to know how much a pass says."""

    parts: int = 0
    exact: int = 0
    folded_norms: list[str] = field(default_factory=list)
    rounded_otherwise: list[str] = field(default_factory=list)
    """HF modules that another valid rounding made; the recipe twin takes it over."""
    not_compared: list[str] = field(default_factory=list)
    blamed_norms: list[str] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)
    """By HF module what its part adds to an honest export: gain, and error over the honest one."""
    largest_gain: float = 0.0
    largest_error: float = 1.0
    lowest_same_codes: float = 1.0

    def add(self, stats: PartStatistics | Certificate) -> None:
        """Counts one part."""
        self.parts += 1
        if stats.exact:
            self.exact += 1
            self.errors[stats.part.module] = [0.0, 1.0]
            return
        ratio = stats.error_ratio if math.isfinite(stats.error_ratio) else _NO_HONEST_ERROR
        self.errors[stats.part.module] = [float(f"{stats.gain:.4g}"), float(f"{ratio:.4g}")]
        self.largest_gain = max(self.largest_gain, abs(stats.gain))
        if stats.rounds:
            self.largest_error = max(self.largest_error, stats.error_ratio)
        self.lowest_same_codes = min(self.lowest_same_codes, stats.same_codes)

    @property
    def worst_error(self) -> float:
        """The largest error over an honest one."""
        return max((error for _, error in self.errors.values()), default=1.0)

    def take_in_ranks(self, ranks: Sequence[Counts]) -> None:
        """Adds the same parts as several ranks have them: one that is the worst of all."""
        worst = max(ranks, key=lambda one: one.worst_error)
        for one in ranks:
            self.take_in(replace(one, parts=0, exact=0))
        self.errors.update(worst.errors)
        self.parts += worst.parts
        self.exact += min(one.exact for one in ranks)

    def take_in(self, others: Counts) -> None:
        """Adds what was counted of other parts."""
        self.parts += others.parts
        self.exact += others.exact
        self.folded_norms.extend(others.folded_norms)
        self.rounded_otherwise.extend(others.rounded_otherwise)
        self.not_compared.extend(others.not_compared)
        self.blamed_norms.extend(others.blamed_norms)
        self.errors.update(others.errors)
        self.largest_gain = max(self.largest_gain, others.largest_gain)
        self.largest_error = max(self.largest_error, others.largest_error)
        self.lowest_same_codes = min(self.lowest_same_codes, others.lowest_same_codes)
