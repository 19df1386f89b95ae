"""Damage that a mean hides: by place in the context, by kind of text, by class of token, in a tail.

A window that is too short is exact before it and half a nat after it; a damaged row of the
embedding is one token in ten thousand. Averaged over a suite both may be inside the limit.

Rules:

- `fidelity.places` asks the line's question of every part of the suite that enough prompts reach:
  buckets of positions, kinds of text, classes of the token that is read or that follows, and text
  that was there before, by how far back and by how deep in what was read (a needle: only who
  still sees it predicts it). It fails where one part is proven to be outside its limit: the
  policy's, or twice the floor *there*. All parts share one check's error of a failure (Bonferroni).
  It passes where every part is proven inside; between, it is shown, and decides nothing: the mean
  does;
- `fidelity.tail` looks at the worst single position. Arithmetic moves a position by a little, so
  what is TAIL_FAILS limits away is no arithmetic, and what is TAIL_DOUBTS away is doubt; where the
  recipe has a floor, multiples of the worst position of the floor, if those are more. There is no
  error rate to it, as there is none to a row that is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from enginekeeper.validation.checks import (
    Check,
    Limit,
    Outcome,
    Quantity,
    bounded,
    nearer_to_failing,
    rounded,
)
from enginekeeper.validation.divergence import Comparison
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.floor import FLOOR_FACTOR
from enginekeeper.validation.pieces import Pieces
from enginekeeper.validation.profiles import buckets, classes
from enginekeeper.validation.statistics import FEWEST_PROMPTS

PLACES, TAIL = "fidelity.places", "fidelity.tail"

PART_FACTOR = 2.0
"""Of the policy's limit. Arithmetic is not the same everywhere: SmolLM2-135M in bfloat16 was at
0.57 of the limit on `smoke`, and at 1.0 of it in the first 16 positions of each prompt."""

TAIL_DOUBTS, TAIL_FAILS = 100.0, 400.0
"""In limits. The worst of 2,500 positions was at 0.6 of a limit in healthy engines without rounded
activations, and at 2.3 in other roundings of one linear; figures: docs/validation.md."""

FLOOR_DOUBTS, FLOOR_FAILS = 3.0, 6.0
"""In worst positions of the floor. Healthy engines were at 0.3 to 0.8 of it; two measurements of
one floor were 2.3 apart."""


RECALL = (64, 512, 4096)
"""From how many tokens back on a repetition is one: beyond windows, chunks, blocks of a cache."""

DEPTHS = ("first", "second", "third", "fourth", "last")
"""Fifths of what was read, in which a repeated text stood."""

NEEDLE = 4
"""Tokens that have to be repeated before the next one counts as recalled."""


@dataclass(frozen=True)
class Place:
    """A part of the suite: which positions belong to it."""

    name: str
    taxonomy: str | None
    here: NDArray[np.bool_]


def places_check(
    comparison: Comparison, noise: Comparison | None, pieces: Pieces, limit: Limit
) -> Check:
    """Judges every part of the suite that enough prompts reach; the worst one is named.

    `limit` is the policy's own, of the whole suite; `noise` is the floor over the same prompts,
    where it was measured.
    """
    known = [place for place in _places(comparison, pieces) if _prompts(comparison, place)]
    check = Check(
        PLACES, "not run", "mean KL(recipe twin ‖ engine) in the worst part of the suite",
        "nats per position", policy_field="max_fidelity_kl",
    )  # fmt: skip
    if not known:
        return replace(check, note=f"no part of the suite has {FEWEST_PROMPTS} prompts")
    shared = replace(limit, checks=limit.checks * len(known))
    judged = [(place, _judged(comparison, noise, place, shared)) for place in known]
    place, worst = max(judged, key=lambda one: nearer_to_failing(one[1]))
    inside = sum(one.outcome == "pass" for _, one in judged)
    note = f"worst: {place.name}; {inside} of {len(judged)} parts are proven inside"
    within: Outcome = "pass" if inside == len(judged) else "shown"
    failed = worst.outcome == "fail"
    check = replace(worst, meaning=check.meaning, outcome="fail" if failed else within, note=note)
    if not failed:
        return check
    early = judged[0][1].outcome == "fail"  # what is wrong from the first token on is no matter of
    taxonomy = None if early else place.taxonomy  # positions
    message = (
        f"{place.name}: the engine's predictions are {worst.value:.2g} nats per position away from"
        " the recipe's"
    )
    expected = f"at most {worst.limit:.3g} nats per position"
    finding = Finding(PLACES, "fail", place.name, message, rounded(worst.value), expected, taxonomy)
    return replace(check, finding=finding)


def _places(comparison: Comparison, pieces: Pieces) -> Iterator[Place]:
    for start, _, here in buckets(comparison.offsets):
        yield Place(f"positions from {start}", "T15" if start else None, here)
    prompts = comparison.tokens.prompts
    lengths = np.diff(comparison.offsets)
    for kind in dict.fromkeys(prompt.stratum for prompt in prompts):
        of_it = np.asarray([prompt.stratum == kind for prompt in prompts])
        yield Place(f"texts of the kind {kind}", None, np.repeat(of_it, lengths))
    back = np.concatenate([recalled(prompt.ids) for prompt in prompts])
    for least, most in zip(RECALL, (*RECALL[1:], np.inf), strict=True):
        name = f"text that was there {least} tokens before and more"
        yield Place(name, "T16", (back >= least) & (back < most))
    read = np.concatenate([np.arange(1, len(prompt.ids)) for prompt in prompts])
    depth = (read - back) * len(DEPTHS) // read
    for number, name in enumerate(DEPTHS):
        here = (back >= RECALL[0]) & (depth == number)
        yield Place(f"text that was there in the {name} fifth of what was read", "T16", here)
    if not pieces.texts:
        return
    for what, ids in (
        ("reading", np.concatenate([prompt.ids[:-1] for prompt in prompts])),
        ("before", np.concatenate([prompt.ids[1:] for prompt in prompts])),
    ):
        for kind, here in classes(ids, pieces):
            yield Place(f"{what} tokens of the class {kind}", None, here)


def recalled(ids: Sequence[int]) -> NDArray[np.int64]:
    """Returns for every position how far back the same tokens were followed by the same one.

    0 where they never were; of several places the latest.
    """
    found = np.zeros(len(ids) - 1, dtype=np.int64)
    seen: dict[tuple[int, ...], int] = {}
    for at in range(NEEDLE, len(ids)):
        before = tuple(ids[at - NEEDLE : at])
        last = seen.get(before)
        if last is not None and ids[last] == ids[at]:
            found[at - 1] = at - last
        seen[before] = at
    return found


def _prompts(comparison: Comparison, place: Place) -> bool:
    reached = comparison.per_prompt(place.here) > 0
    return int(reached.sum()) >= FEWEST_PROMPTS


def _judged(comparison: Comparison, noise: Comparison | None, place: Place, limit: Limit) -> Check:
    sums = comparison.per_prompt(comparison.kl * place.here)
    sizes = comparison.per_prompt(place.here)
    limit = replace(limit, value=PART_FACTOR * limit.value)
    if noise is not None:
        floors, there = noise.per_prompt(noise.kl * place.here), noise.per_prompt(place.here)
        floor = float(floors.sum() / max(there.sum(), 1.0))
        if FLOOR_FACTOR * floor > limit.value:
            limit = replace(limit, value=FLOOR_FACTOR * floor)
            if not limit.rule.anytime:  # pairs the prompts; the mean stays as it is
                sums = sums - FLOOR_FACTOR * (floors - floor * there)
    strata = comparison.tokens.strata
    quantity = Quantity(PLACES, place.name, "nats per position", sums, sizes, strata, least=0.0)
    return bounded(quantity, limit)


def tail_check(
    comparison: Comparison, noise: Comparison | None, pieces: Pieces, limit: Limit
) -> Check:
    """Judges the worst single position, and names it."""
    meaning = "KL(recipe twin ‖ engine) at the worst position"
    if not comparison.positions:
        return Check(TAIL, "not run", meaning, "nats", note="no position could be compared")
    kl = np.where(comparison.kept, comparison.kl, 0.0)
    row = int(kl.argmax())
    worst = 0.0 if noise is None else noise.quantile(1.0)
    doubts = max(TAIL_DOUBTS * limit.value, FLOOR_DOUBTS * worst)
    fails = max(TAIL_FAILS * limit.value, FLOOR_FAILS * worst)
    where, seen = _where(comparison, pieces, row)
    check = Check(
        TAIL, "pass", meaning, "nats", float(kl[row]), limit=fails, policy_field="max_fidelity_kl",
        prompts=int((comparison.sizes > 0).sum()), positions=comparison.positions,
        note=f"in {where}, {seen}; p99.9 {comparison.quantile(0.999):.2g}",
    )  # fmt: skip
    if kl[row] <= doubts:
        return check
    if kl[row] <= fails:
        note = f"{check.note}; above {doubts:.2g} a position is no arithmetic of a healthy engine"
        return replace(check, outcome="inconclusive", note=note)
    message = (
        f"at one position the engine is {kl[row]:.2g} nats away from the recipe, which no"
        f" arithmetic is: {where}, {seen}"
    )
    expected = f"at most {fails:.3g} nats"
    finding = Finding(TAIL, "fail", where, message, rounded(check.value), expected, "T25")
    return replace(check, outcome="fail", finding=finding)


def _where(comparison: Comparison, pieces: Pieces, row: int) -> tuple[str, str]:
    """Names a position, and the token that was read there."""
    number = int(comparison.offsets.searchsorted(row, side="right")) - 1
    prompt, at = comparison.tokens.prompts[number], row - int(comparison.offsets[number])
    return f"{prompt.id}, position {at}", f"after reading {pieces.text(prompt.ids[at])!r}"
