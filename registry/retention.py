"""What must stay: everything that is reached from what is used, may be gone back to, or is young.

Rules, each a reason to keep an engine:

- `channel`: a channel resolves to it;
- `rollback`: one of the next rollbacks of a channel leads to it, as many as the policy says;
- `placement`: it lies on a node, by what was recorded or what its agent says; `keep`: somebody said
  so;
- `newest`, `qualified`: the newest of its key, and for each environment the newest of its key that
  is qualified there; a revoked engine is neither;
- `quarantined`: it is held to be looked into;
- `young`: it was recorded within the grace period.

The latest timing cache of each key is kept, and young ones, which a build may be about to fetch. A
checkpoint is kept with its engines, as the newest of what it was made from, while it is young, or
because somebody said so. References are kept: verdicts name them. All of this is decided by the
catalogue alone; bytes follow (`registry.sweeping`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from registry.channels import way_back
from registry.digests import Digest
from registry.queries import View
from registry.standing import Standing
from registry.types import Holding


class Kind(StrEnum):
    """What is kept or swept."""

    ENGINE = "engine"
    CHECKPOINT = "checkpoint"
    TIMING_CACHE = "timing cache"


@dataclass(frozen=True)
class RetentionPolicy:
    """How long and how many."""

    grace: timedelta = timedelta(days=7)
    """Nothing younger is swept, row or blob: a publish may be under way."""

    rollbacks: int = 3
    """How many rollbacks of each channel and target lead to an engine that is still there."""

    per_key: int = 1
    """How many of each key are kept, newest first, and how many qualified ones per environment."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the policy as a JSON object."""
        return {
            "grace_hours": self.grace.total_seconds() / 3600,
            "rollbacks": self.rollbacks,
            "per_key": self.per_key,
        }


@dataclass(frozen=True)
class Marked:
    """An artifact of the catalogue, and why it is kept; without a reason it may go."""

    kind: Kind
    holding: Holding
    reasons: tuple[str, ...]


def mark(
    view: View, policy: RetentionPolicy, now: datetime, keep: Collection[Digest] = ()
) -> list[Marked]:
    """Returns everything that may be swept with the reasons to keep it, newest first."""
    reasons: defaultdict[Digest, list[str]] = defaultdict(list)
    engines, checkpoints = view.engine_holdings(), view.checkpoint_holdings()
    timing = view.timing.holdings()
    for why, digests in _reached(view, engines, policy):
        for digest in digests:
            reasons[digest].append(why)
    for one in (*engines, *checkpoints, *timing):
        if one.digest in keep:
            reasons[one.digest].append("keep")
        if one.recorded_at > now - policy.grace:
            reasons[one.digest].append("young")
    for engine in engines:
        if reasons[engine.digest] and engine.checkpoint is not None:
            reasons[engine.checkpoint].append("engine")
    for digest in _newest(checkpoints, policy.per_key):
        reasons[digest].append("newest")
    for digest in _newest(timing, 1):
        reasons[digest].append("newest")
    return [
        Marked(kind, one, tuple(dict.fromkeys(reasons[one.digest])))
        for kind, group in (
            (Kind.ENGINE, engines),
            (Kind.CHECKPOINT, checkpoints),
            (Kind.TIMING_CACHE, timing),
        )
        for one in group
    ]


def _reached(
    view: View, engines: list[Holding], policy: RetentionPolicy
) -> Iterator[tuple[str, Iterable[Digest]]]:
    held = view.held_engines()
    revoked = {one for one, kind in held.items() if kind is Standing.REVOKED}
    good = [one for one in engines if one.digest not in revoked]
    yield "channel", [position.engine for position in view.channels()]
    yield "rollback", _rollbacks(view, {one.digest for one in good}, policy.rollbacks)
    yield "placement", [placement.engine for placement in view.placements()]
    yield "quarantined", [one for one, kind in held.items() if kind is Standing.QUARANTINED]
    yield "newest", _newest(good, policy.per_key)
    yield "qualified", _qualified(view, good, policy.per_key)


def _rollbacks(view: View, good: set[Digest], depth: int) -> Iterator[Digest]:
    """Yields what rollbacks lead to; an engine that was revoked or swept is none of them."""
    for steps in view.steps().values():
        yield from [one for one in way_back(steps) if one in good][:depth]


def _newest(holdings: list[Holding], count: int) -> Iterator[Digest]:
    """Yields the newest of each identity; holdings come newest first."""
    seen: defaultdict[object, int] = defaultdict(int)
    for one in holdings:
        seen[one.identity] += 1
        if seen[one.identity] <= count:
            yield one.digest


def _qualified(view: View, engines: list[Holding], count: int) -> Iterator[Digest]:
    where = view.qualified_rows()
    seen: defaultdict[object, int] = defaultdict(int)
    for one in engines:
        for environment in where.get(one.row, ()):
            seen[one.identity, environment] += 1
            if seen[one.identity, environment] <= count:
                yield one.digest
