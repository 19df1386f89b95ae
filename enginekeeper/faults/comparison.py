"""Audits, behaviour and the rules of others on the same cases, side by side.

Rates have 95 % Wilson intervals. Of behaviour count the cases whose edit changes numbers that the
executor is given: what it would not load is found, too, and said so; edits that change no number,
the files only, or need a graph of another kind are counted apart. Doubt is no hit.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enginekeeper.faults.detection import Row
from enginekeeper.faults.trial import Trial
from enginekeeper.validation.findings import TAXONOMY
from enginekeeper.validation.rounds import Rounds

ORDERS = 40
"""In how many orders each healthy engine's prompts are judged."""

BINS = (0.0, 0.0005, 0.0025, 0.01, 0.1, float("inf"))
"""Of the measured divergence from the twin, in nats; the second is the policy's limit."""

TRIED = ("scored", "refused")


@dataclass(frozen=True)
class Record:
    """One case on one recipe: what the audits said, and what came of it in the executor."""

    recipe: str
    trial: Trial
    executor: str | None = None
    """`scored`, `refused`, `another graph`, `same numbers`, `files only`; None: not run yet."""
    decision: str | None = None
    kl: float | None = None
    tokens: int | None = None
    """Positions after which the rule decided."""
    scored: int | None = None
    seconds: float | None = None
    """Processor time of all that was scored, which is more than was decided on."""
    peers: Mapping[str, bool] | None = None
    asked: str | None = None
    """The decision when its layers were asked, too (`--probes`); None: they were not."""

    @property
    def healthy(self) -> bool:
        """Whether it is a control."""
        return self.trial.taxonomy is None

    @property
    def tried(self) -> bool:
        """Whether the executor was given other numbers."""
        return self.executor in TRIED

    @property
    def as_built(self) -> bool:
        """Whether it is a control whose engine is the healthy one: no number differs."""
        return self.healthy and not self.tried and self.decision is not None

    @property
    def audits(self) -> bool:
        """Whether the audits stop it."""
        return self.trial.outcome in ("hit", "alarm")

    @property
    def behaviour(self) -> bool:
        """Whether behaviour stops it, or the executor would not load it."""
        return self.executor == "refused" or self.decision == "fail"

    @property
    def probes(self) -> bool:
        """Whether behaviour stops it when every layer is asked, too."""
        return self.behaviour or self.asked == "fail"

    @property
    def either(self) -> bool:
        """Whether one of the two stops it."""
        return self.audits or self.probes

    @property
    def doubt(self) -> bool:
        """Whether behaviour ended without a decision."""
        return not self.behaviour and self.decision in ("inconclusive", "open")


Found = Callable[[Record], bool]

WAYS: Mapping[str, Found] = {
    "audits alone": lambda one: one.audits,
    "behaviour alone": lambda one: one.behaviour,
    "behaviour with --probes": lambda one: one.probes,
    "both": lambda one: one.either,
}


def shuffled(rounds: Rounds, seed: int) -> Rounds:
    """Returns the same rounds in another order, each in another order."""
    generator = random.Random(seed)  # noqa: S311 - an order, not a secret
    every = [tuple(generator.sample(one, len(one))) for one in rounds]
    generator.shuffle(every)
    return tuple(every)


def document(records: Sequence[Record], healthy: Mapping[str, Any]) -> dict[str, Any]:
    """Returns everything that was found as JSON values; `healthy` is taken over as it is."""
    run = [one for one in records if one.trial.outcome != "not applicable"]
    faults = [one for one in run if not one.healthy and one.trial.in_files]
    tried = [one for one in run if one.tried]
    return {
        "ways": [row.as_dict() for row in _way_rows(run)],
        "classes": [row.as_dict() for row in _class_rows(faults)],
        "peers": [row.as_dict() for row in _peer_rows(tried)],
        "divergence": list(_by_divergence(tried)),
        "executor": dict(Counter(str(one.executor) for one in run)),
        "recipes": dict(Counter(one.recipe for one in tried)),
        "healthy": dict(healthy),
        "wrong": [_described(one) for one in run if _is_wrong(one)],
    }


def _way_rows(run: Sequence[Record]) -> Iterator[Row]:
    groups = {
        "faults": [one for one in run if _above(one)],
        "faults below the limit": [one for one in run if one.trial.below_limit],
        "faults that files do not show": [one for one in run if not one.trial.in_files],
        "controls": [one for one in run if one.healthy],
    }
    for group, members in groups.items():
        yield from _row(f"{group}, all drawn: audits alone", members, WAYS["audits alone"])
        tried = [one for one in members if one.tried]
        for way, found in WAYS.items():
            yield from _row(f"{group}, in the executor: {way}", tried, found)
        as_built = [one for one in members if one.as_built]
        yield from _row(f"{group}, the very engine that was built: both", as_built, WAYS["both"])


def _above(one: Record) -> bool:
    return not one.healthy and not one.trial.below_limit and one.trial.in_files


def _class_rows(faults: Sequence[Record]) -> Iterator[Row]:
    above = [one for one in faults if not one.trial.below_limit]
    for name in TAXONOMY:
        mine = [one for one in above if one.trial.taxonomy == name]
        yield from _row(f"{name}: audits", mine, WAYS["audits alone"])
        tried = [one for one in mine if one.tried]
        for way in ("behaviour alone", "behaviour with --probes"):
            yield from _row(f"{name}: {way}", tried, WAYS[way])


def _peer_rows(tried: Sequence[Record]) -> Iterator[Row]:
    scored = [one for one in tried if one.peers is not None]
    groups = {
        "faults": [one for one in scored if _above(one)],
        "controls": [one for one in scored if one.healthy],
    }
    for name in (scored[0].peers or {}) if scored else ():
        for group, members in groups.items():
            yield from _row(f"{name}: {group}", members, lambda one, n=name: one.peers[n])  # type: ignore[misc]
    for group, members in groups.items():
        for way, found in WAYS.items():
            yield from _row(f"ours, {way}: {group}", members, found)


def _by_divergence(tried: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yields, for faults by how far they are from the twin, what was found after how much."""
    known = [one for one in tried if not one.healthy and one.kl is not None]
    for low, high in itertools.pairwise(BINS):
        here = [one for one in known if one.kl is not None and low <= one.kl < high]
        decided = [one.tokens for one in here if one.behaviour and one.tokens is not None]
        if not here:
            continue
        yield {
            "from": low,
            "to": None if high == BINS[-1] else high,
            "faults": len(here),
            "found": sum(one.behaviour for one in here),
            "doubt": sum(one.doubt for one in here),
            "audits": sum(one.audits for one in here),
            "tokens_median": float(np.median(decided)) if decided else None,
            "tokens_most": max(decided) if decided else None,
            "seconds_median": _seconds(here),
        }


def _seconds(here: Sequence[Record]) -> float | None:
    """Returns the median of what scoring up to the decision took, in processor seconds."""
    spent = [
        one.seconds * one.tokens / one.scored
        for one in here
        if one.behaviour and one.seconds is not None and one.tokens and one.scored
    ]
    return round(float(np.median(spent)), 2) if spent else None


def _row(name: str, members: Sequence[Record], found: Found) -> Iterator[Row]:
    if not members:
        return
    hits = [one for one in members if found(one)]
    audited = found is WAYS["audits alone"]
    faults = not members[0].healthy
    yield Row(
        name,
        len(members),
        len({one.trial.case for one in members}),
        len(hits),
        sum(bool(one.trial.culprit_right) for one in hits) if audited and faults else None,
        sum(bool(one.trial.class_right) for one in hits) if audited and faults else None,
        sum(one.trial.outcome == "doubt" if audited else one.doubt for one in members),
    )


def _is_wrong(one: Record) -> bool:
    if one.healthy:
        return one.either or one.trial.outcome == "doubt" or one.doubt
    return _above(one) and (not one.audits or not one.trial.culprit_right)


def _described(one: Record) -> dict[str, Any]:
    return {
        "recipe": one.recipe,
        "case": one.trial.case,
        "audits": one.trial.outcome,
        "culprit_right": one.trial.culprit_right,
        "behaviour": one.decision or one.executor,
        "layers": one.asked,
        "kl": one.kl,
        "told": list(one.trial.told[:1]),
    }


def render(found: Mapping[str, Any]) -> str:
    """Lays the tables out as Markdown."""
    columns = ("trials", "cases", "found", "doubt", "culprit_right")
    lines: list[str] = []
    for title in ("ways", "classes", "peers"):
        lines += [f"| {title} | trials | cases | found | doubt | culprit | 95 % interval |"]
        lines += [f"|---|{'--:|' * 6}"]
        for row in found[title]:
            cells = ["" if row[column] is None else str(row[column]) for column in columns]
            interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
            lines.append(f"| {row['row']} | {' | '.join(cells)} | {interval} |")
        lines.append("")
    lines += _divergence_lines(found["divergence"])
    for title in ("executor", "recipes", "healthy"):
        lines.append(f"{title}: {found[title]}")
    lines += [str(one) for one in found["wrong"]]
    return "\n".join(lines)


def _divergence_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    names = ("faults", "found", "doubt", "audits", "tokens_median", "tokens_most", "seconds_median")
    lines = [f"| nats from the twin | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for row in rows:
        cells = " | ".join("" if row[name] is None else f"{row[name]:g}" for name in names)
        upper = "up" if row["to"] is None else f"{row['to']:g}"
        lines.append(f"| {row['from']:g} to {upper} | {cells} |")
    return [*lines, ""]
