"""The detection table: what was found, what was missed, what was stopped for nothing.

Rates are over trials: a case counts once for each recipe it was tried on, and the distinct cases
stand beside them. They have 95 % Wilson intervals (Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212).
Doubt is no hit and, for a control, no pass. Doses below the stated limit and faults that only
behaviour can show have rows of their own; cases that a checkpoint cannot express are counted
nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from enginekeeper.faults.campaign import Campaign
from enginekeeper.faults.trial import Trial
from enginekeeper.validation.findings import TAXONOMY

_CONFIDENCE = 0.95

_INTERVAL = "95 % interval"
_NAMED = ("culprit right", "class right")
"""Columns of the tables: a key of the row with spaces, or the interval."""


@dataclass(frozen=True)
class Row:
    """Hits among faults, or alarms among controls."""

    name: str
    trials: int
    cases: int
    """Distinct cases of the grid: one is tried on each recipe, and those are not independent."""
    found: int
    culprit: int | None = None
    """Hits whose first finding names the culprit."""
    named: int | None = None
    """Hits whose first finding names the class."""
    doubts: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """The rate's Wilson interval."""
        result = stats.binomtest(self.found, self.trials).proportion_ci(_CONFIDENCE, "wilson")
        return float(result.low), float(result.high)

    def as_dict(self) -> dict[str, Any]:
        """Returns the row as JSON values."""
        low, high = self.interval
        return {
            "row": self.name,
            "trials": self.trials,
            "cases": self.cases,
            "found": self.found,
            "doubt": self.doubts,
            "rate": round(self.found / self.trials, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "culprit_right": self.culprit,
            "class_right": self.named,
        }

    def hits_as_dict(self) -> dict[str, Any]:
        """Returns a row of which every trial is a hit as JSON values."""
        return {
            "row": self.name,
            "hits": self.found,
            "culprit_right": self.culprit,
            "class_right": self.named,
        }


def document(campaigns: Sequence[Campaign], grid: str) -> dict[str, Any]:
    """Returns everything that was found as JSON values."""
    trials = [trial for campaign in campaigns for trial in campaign.trials]
    return {
        "grid": grid,
        "classes": [row.as_dict() for row in class_rows(trials)],
        "checks": [row.hits_as_dict() for row in check_rows(trials)],
        "recipes": [
            {
                "recipe": one.recipe,
                "seconds": round(one.seconds, 2),
                "rows": [row.as_dict() for row in recipe_rows(one.trials)],
            }
            for one in campaigns
        ],
        "wrong": [
            {"recipe": one.recipe, **trial.as_dict()}
            for one in campaigns
            for trial in one.trials
            if is_wrong(trial)
        ],
        "not_applicable": sum(trial.outcome == "not applicable" for trial in trials),
        "not_run": sum(one.not_run for one in campaigns),
    }


def class_rows(trials: Iterable[Trial]) -> Iterator[Row]:
    """Yields a row for each class, and the rows that stand apart."""
    run = [trial for trial in trials if trial.outcome != "not applicable"]
    above = [t for t in run if t.taxonomy and not t.below_limit and t.in_files]
    for name in TAXONOMY:
        yield from _row(f"{name} {TAXONOMY[name]}", [t for t in above if t.taxonomy == name])
    yield from _row("all above the limit", above)
    yield from _row("below the stated limit", [t for t in run if t.below_limit])
    yield from _row("not in the files: for behaviour", [t for t in run if not t.in_files])
    yield from _row("healthy controls", [t for t in run if not t.taxonomy])


def check_rows(trials: Iterable[Trial]) -> Iterator[Row]:
    """Yields for each check how many faults it was the first to find: hits only, so no rate."""
    hits = [trial for trial in trials if trial.outcome == "hit" and trial.check]
    for check in sorted({str(trial.check) for trial in hits}):
        yield from _row(check, [trial for trial in hits if trial.check == check])


def recipe_rows(trials: Iterable[Trial]) -> Iterator[Row]:
    """Yields one recipe's faults above the limit, and its controls."""
    run = [trial for trial in trials if trial.outcome != "not applicable"]
    yield from _row("faults", [t for t in run if t.taxonomy and not t.below_limit and t.in_files])
    yield from _row("controls", [t for t in run if not t.taxonomy])


def is_wrong(trial: Trial) -> bool:
    """Says whether somebody should look at a trial: a miss, doubt, an alarm or a wrong name."""
    if trial.outcome in ("not applicable", "clear"):
        return False
    expected = trial.taxonomy and (trial.below_limit or not trial.in_files)
    return not expected and (trial.outcome != "hit" or not trial.culprit_right)


def _row(name: str, trials: Sequence[Trial]) -> Iterator[Row]:
    if not trials:
        return
    outcomes = Counter(trial.outcome for trial in trials)
    healthy = all(trial.taxonomy is None for trial in trials)
    yield Row(
        name,
        len(trials),
        len({trial.case for trial in trials}),
        outcomes["alarm" if healthy else "hit"],
        None if healthy else sum(bool(trial.culprit_right) for trial in trials),
        None if healthy else sum(bool(trial.class_right) for trial in trials),
        outcomes["doubt"],
    )


def render(found: dict[str, Any]) -> str:
    """Lays the table out as Markdown, what went wrong below it."""
    counts = f"{found['not_applicable']} cases not applicable, {found['not_run']} not run"
    lines = [f"grid {found['grid']}, {counts}", ""]
    rates = ("trials", "cases", "found", "doubt", _INTERVAL, *_NAMED)
    lines += _table("class", rates, [(row["row"], row) for row in found["classes"]])
    hits = [(row["row"], row) for row in found["checks"]]
    lines += _table("check that was first", ("hits", *_NAMED), hits)
    recipes = [
        (f"{one['recipe']}: {row['row']} (audits {one['seconds']} s)", row)
        for one in found["recipes"]
        for row in one["rows"]
    ]
    lines += _table("recipe", rates, recipes)
    for trial in found["wrong"]:
        said = trial["told"][0] if trial["told"] else "nothing"
        lines.append(f"{trial['recipe']} {trial['case']}: {trial['outcome']}: {said}")
    return "\n".join(lines)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, dict[str, Any]]]
) -> list[str]:
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for name, row in rows:
        lines.append(f"| {name} | {' | '.join(_cell(row, column) for column in columns)} |")
    return [*lines, ""]


def _cell(row: dict[str, Any], column: str) -> str:
    if column == _INTERVAL:
        return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    value = row[column.replace(" ", "_")]
    return "" if value is None else str(value)
