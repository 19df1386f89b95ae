"""A task's answers, source against engine: a paired test, for whoever has the data.

Both answered the same questions, so only the questions that they answered differently say anything
(Q. McNemar, Psychometrika 12 (1947) 153-157): at 3 % of answers changed, a test of pairs on 4,096
questions resolves 0.7 points where two unpaired shares resolve 2.75. The bounds of the loss are
Tango's score interval for a difference of paired shares (T. Tango, Statistics in Medicine 17 (1998)
891-908), which also holds where few or no answers differ.

Rules:

- both files are of the same questions, each once; anything else is refused;
- questions are the unit: several samples of one question are one question, to be averaged before;
- a loss proven above the limit fails, one proven inside passes, between it is inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation.checks import rounded
from enginekeeper.validation.findings import Result

LARGEST_FILE = 64 * 2**20
METHOD = "Tango 1998 score bounds of a paired difference; McNemar 1947, exact"
_STEPS = 80
"""Halvings of a bracket: to the last bits of a double."""

MANY = 10**9
"""Questions that nobody asks: what they would not decide is not decided by more."""

Answers = Mapping[str, bool]
"""By the question's id: whether it was answered rightly."""


@dataclass(frozen=True)
class Pairs:
    """How source and engine answered the same questions."""

    both: int
    lost: int
    """Right by the source, wrong by the engine."""
    won: int
    neither: int

    @property
    def questions(self) -> int:
        """How many questions there are."""
        return self.both + self.lost + self.won + self.neither

    @property
    def loss(self) -> float:
        """The share of questions that the engine answers rightly less often."""
        return (self.lost - self.won) / self.questions


def read_answers(path: Path) -> Answers:
    """Reads JSON lines with `id` and `correct` (true or false)."""
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= LARGEST_FILE else ""
    except FileNotFoundError as error:
        raise MissingError("no such file of answers", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=str(path), actual=error) from error
    if size > LARGEST_FILE:
        raise InputError(
            "too large for a file of answers", where=str(path), actual=f"{size} bytes",
            expected=f"at most {LARGEST_FILE} bytes",
        )  # fmt: skip
    found: dict[str, bool] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            name, correct = _answer(line, f"{path}:{number}")
            if name in found:
                raise InputError("a question is there twice", where=f"{path}:{number}", actual=name)
            found[name] = correct
    if not found:
        raise InputError("holds no answers", where=str(path))
    return found


def _answer(line: str, where: str) -> tuple[str, bool]:
    said = parse_json(line, where)
    name = said.get("id") if isinstance(said, dict) else None
    correct = said.get("correct") if isinstance(said, dict) else None
    if not isinstance(name, str) or not isinstance(correct, bool):
        raise InputError(
            "not an answer", where=where, actual=line[:80],
            expected='{"id": "…", "correct": true or false}',
        )  # fmt: skip
    return name, correct


def paired(source: Answers, engine: Answers) -> Pairs:
    """Pairs two sets of answers; raises InputError unless they are of the same questions."""
    if other := sorted(source.keys() ^ engine.keys()):
        raise InputError(
            "source and engine answered other questions",
            actual=f"{len(other)} in one only, such as {other[0]}",
            expected="every question in both files",
            remedy="run the same tasks, in the same version, on both",
        )
    both = sum(source[one] and engine[one] for one in source)
    lost = sum(source[one] and not engine[one] for one in source)
    won = sum(engine[one] and not source[one] for one in source)
    return Pairs(both, lost, won, len(source) - both - lost - won)


def compare_answers(pairs: Pairs, *, max_loss: float, confidence: float) -> dict[str, Any]:
    """Judges the loss; both bounds are one-sided at that confidence."""
    from scipy import stats  # noqa: PLC0415 - 0.8 s of processor time

    quantile = float(stats.norm.ppf(confidence))
    lower, upper = bounds(pairs, quantile)
    differ = pairs.lost + pairs.won
    p_value = (
        float(stats.binomtest(pairs.lost, differ, 0.5, alternative="greater").pvalue)
        if differ
        else 1.0
    )
    result: Result = "inconclusive"
    if lower > max_loss:
        result = "fail"
    elif upper <= max_loss:
        result = "pass"
    needed = None if result != "inconclusive" else _needed(pairs, quantile, max_loss)
    return {
        "result": result,
        "questions": pairs.questions,
        "source": rounded((pairs.both + pairs.lost) / pairs.questions),
        "engine": rounded((pairs.both + pairs.won) / pairs.questions),
        "lost": pairs.lost,
        "won": pairs.won,
        "loss": rounded(pairs.loss),
        "lower": rounded(lower),
        "upper": rounded(upper),
        "limit": max_loss,
        "confidence": confidence,
        "p_worse": rounded(p_value),
        "questions_to_decide": needed,
        "method": METHOD,
    }


def bounds(pairs: Pairs, quantile: float) -> tuple[float, float]:
    """Returns the losses at which Tango's score leaves the quantile on either side."""
    loss = pairs.loss

    def edge(inside: float, outside: float) -> float:
        for _ in range(_STEPS):
            middle = (inside + outside) / 2.0
            if abs(_score(pairs, middle)) <= quantile:
                inside = middle
            else:
                outside = middle
        return outside

    return edge(loss, -1.0), edge(loss, 1.0)


def _score(pairs: Pairs, loss: float) -> float:
    """Returns Tango's statistic of a loss: what was lost more, over its error if that were true."""
    n, lost, won = pairs.questions, pairs.lost, pairs.won
    a = 2.0 * n
    b = -lost - won + (2.0 * n - lost + won) * loss
    c = -won * loss * (1.0 - loss)
    share = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * share + loss * (1.0 - loss))
    gap = lost - won - n * loss
    if variance <= 0.0:
        return 0.0 if gap == 0.0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def _needed(pairs: Pairs, quantile: float, max_loss: float) -> int | None:
    """Says how many questions, answered in these shares, would decide; None if MANY would not."""

    def decide(times: float) -> bool:
        lower, upper = bounds(pairs, quantile / math.sqrt(times))
        return lower > max_loss or upper <= max_loss

    most = MANY / pairs.questions
    if not decide(most):
        return None
    least = 1.0
    for _ in range(_STEPS):
        middle = (least + most) / 2.0
        least, most = (least, middle) if decide(middle) else (middle, most)
    return math.ceil(most * pairs.questions)
