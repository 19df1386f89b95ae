"""Whether a node is well, apart from what runs on it: heard lately, GPUs answer, clock right.

Health is one column and drift another: a node that is down may run exactly what it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

STALE_AFTER = timedelta(minutes=3)
"""Three heartbeats; after one that is lost a node is no reason to worry."""
SILENT_AFTER = timedelta(days=1)
"""What a node said so long ago is nothing to go by."""
CLOCK_MAY_BE_OFF = 300
"""Seconds."""


class Health(StrEnum):
    """How a node is, from the best to the worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It speaks, and something is wrong with it."""
    STALE = "stale"
    """It was not heard lately: whatever is known of it may be old."""
    SILENT = "silent"
    """It was enrolled and never reported."""


@dataclass(frozen=True)
class Diagnosis:
    """How a node is, and why."""

    health: Health
    reasons: tuple[str, ...] = ()


def diagnose(
    problems: Sequence[str] | None,
    seen_at: datetime | None,
    now: datetime,
    *,
    clock_offset: int | None = None,
    stale_after: timedelta = STALE_AFTER,
) -> Diagnosis:
    """Says how a node is; `problems` are those of its profile, None before it reported."""
    if problems is None or seen_at is None:
        return Diagnosis(Health.SILENT, ("no inventory yet",))
    reasons = list(problems)
    if clock_offset is not None and abs(clock_offset) > CLOCK_MAY_BE_OFF:
        reasons.append(f"its clock is {clock_offset:+d} s off")
    if now - seen_at > stale_after:
        return Diagnosis(Health.STALE, (f"not heard for {age(seen_at, now)}", *reasons))
    return Diagnosis(Health.DEGRADED if reasons else Health.HEALTHY, tuple(reasons))


def age(moment: datetime, now: datetime) -> str:
    """Returns how long ago something was, as `12s`, `7m`, `3h`, `9d`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
