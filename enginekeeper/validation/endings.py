"""Where an engine ends what it says: at which token, and after how many, beside its twin.

A text that does not end, or ends too soon, leaves every log-probability as it was. Both arms
continue the same questions greedily; questions are the unit, and paired.

Rules:

- `probe.stop` fails where one arm's texts are longer, or are cut more often, than chance explains:
  Wilcoxon's signed rank test of the lengths and McNemar's exact one of the cuts, two-sided, half of
  the check's error each. Two arms that part at a near tie part either way;
- it passes only where an engine that ends no text as the twin does would have failed: where fewer
  of the twin's texts ended than it takes to fail, it is inconclusive. A pass says which share of
  the ends a wrong stop has to move to be seen nine times in ten (each text for itself; how far a
  text is moved does not count, only which way);
- where no text of either arm ended, there is nothing to compare: `not run`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.checks import Check, Limit, rounded
from enginekeeper.validation.findings import Finding

NAME, TAXONOMY, SCHEMA = "probe.stop", "T21", "1"
MEANING = "tokens until a text ends, engine against its checkpoint's twin"
CUT = -1

SEEN = 0.9
"""How likely it is that what a pass names would have been seen."""


@dataclass(frozen=True)
class Endings:
    """What one arm did with every question."""

    lengths: NDArray[np.int64]
    ended_by: NDArray[np.int64]
    """The token that ended the text; CUT where it had as many as were asked for."""


@dataclass(frozen=True)
class BothEndings:
    """The engine's endings and the twin's, of the same questions."""

    engine: Endings
    twin: Endings
    most: int


def load_endings(path: Path) -> BothEndings | str:
    """Reads what the step `probe_endings` wrote; raises InputError for what is not whole.

    Words say why there is nothing to compare.
    """
    document = read_json_object(path)
    most, absent = document.get("most"), document.get("absent")
    if document.get("schema") == SCHEMA and isinstance(absent, str):
        return absent
    if document.get("schema") != SCHEMA or type(most) is not int:
        raise InputError(
            "not endings of this version", where=str(path), actual=document.get("schema"),
            expected=SCHEMA,
        )  # fmt: skip
    engine, twin = (
        _arm(document.get(name), most, f"{path}: {name}") for name in ("engine", "twin")
    )
    if len(engine.lengths) != len(twin.lengths):
        raise InputError(
            "the arms answered another number of questions", where=str(path),
            actual=len(engine.lengths), expected=len(twin.lengths),
        )  # fmt: skip
    return BothEndings(engine, twin, most)


def _arm(said: Any, most: int, where: str) -> Endings:  # noqa: ANN401 - any JSON value
    lists = (
        [said.get(name) for name in ("lengths", "ended_by")] if isinstance(said, Mapping) else []
    )
    whole = [one for one in lists if isinstance(one, list) and all(type(x) is int for x in one)]
    if len(whole) == len(lists) == 2 and len(whole[0]) == len(whole[1]) > 0:  # noqa: PLR2004
        lengths, ended_by = (np.asarray(one, dtype=np.int64) for one in whole)
        if ((lengths == most) == (ended_by == CUT)).all() and (lengths >= 0).all():
            return Endings(lengths, ended_by)
    raise InputError("not how texts ended", where=where, actual=repr(said)[:80])


def endings_check(both: BothEndings, limit: Limit) -> Check:
    """Asks whether the engine ends its texts where its twin does."""
    engine, twin = both.engine, both.twin
    apart = engine.lengths - twin.lengths
    cut, others = engine.ended_by == CUT, twin.ended_by == CUT
    more, fewer = int((cut & ~others).sum()), int((others & ~cut).sum())
    alike = int(((apart == 0) & (engine.ended_by == twin.ended_by)).sum())
    count, ended = len(apart), int((~others).sum())
    check = Check(
        NAME, "pass", MEANING, "tokens", float(apart.mean()), limit=0.0, prompts=count,
        positions=int(engine.lengths.sum()),
    )  # fmt: skip
    if bool(cut.all() and others.all()):
        note = f"no text ended within {both.most} tokens: there is nothing to compare"
        return replace(check, outcome="not run", note=note)
    p_value = min(1.0, 2.0 * min(_longer(apart), _cut_more(more, fewer)))
    note = (
        f"{alike} of {count} texts end alike; ended within {both.most} tokens:"
        f" {int((~cut).sum())} by the engine, {ended} by the twin; p = {p_value:.2g}"
    )
    alpha = 1.0 - limit.failure_confidence
    if p_value >= alpha:
        return _not_failed(check, note, ended, fewest_moved(alpha))
    how = "longer" if apart.mean() > 0 else "shorter"
    message = f"the engine's texts end elsewhere, {abs(apart.mean()):.3g} tokens {how}: {note}"
    where = _first(both)
    finding = Finding(NAME, "fail", where, message, rounded(check.value), 0, TAXONOMY)
    return replace(check, outcome="fail", note=note, finding=finding)


def fewest_moved(alpha: float) -> int:
    """Returns how many texts have to end elsewhere, all the same way, to fail."""
    return math.floor(math.log2(4.0 / alpha)) + 1  # two tests, each 2 * 0.5 ** texts


def _not_failed(check: Check, note: str, ended: int, fewest: int) -> Check:
    """Passes where a wrong stop would have been seen, and says which."""
    if ended < fewest:
        note = (
            f"{note}; too few: {fewest} texts have to end elsewhere to fail, so an engine that"
            " never ends a text would not have been seen"
        )
        return replace(check, outcome="inconclusive", note=note)
    from scipy import stats  # noqa: PLC0415

    share = float(stats.beta.ppf(SEEN, fewest, ended - fewest + 1))
    seen = f"a stop that moves {share:.0%} of the ends would have been seen nine times in ten"
    return replace(check, note=f"{note}; {seen}")


def _longer(apart: NDArray[np.int64]) -> float:
    """Returns Wilcoxon's two-sided p-value; pairs of one length say nothing."""
    differing = apart[apart != 0]
    if not len(differing):
        return 1.0
    from scipy import stats  # noqa: PLC0415 - half a second, of the one who asks

    return float(stats.wilcoxon(differing, method="auto").pvalue)


def _cut_more(more: int, fewer: int) -> float:
    if not more + fewer:
        return 1.0
    from scipy import stats  # noqa: PLC0415

    return float(stats.binomtest(more, more + fewer, 0.5).pvalue)


def _first(both: BothEndings) -> str:
    """Names the first question whose answers end otherwise."""
    engine, twin = both.engine, both.twin
    other = (engine.lengths != twin.lengths) | (engine.ended_by != twin.ended_by)
    row = int(np.flatnonzero(other)[0])
    said = [
        f"after {arm.lengths[row]} tokens"
        + (" cut" if arm.ended_by[row] == CUT else f" by {arm.ended_by[row]}")
        for arm in (engine, twin)
    ]
    return f"question {row}: {said[0]}, the twin's {said[1]}"
