"""Which of several verdicts still speak: an old pass that was recorded late does not.

A pass is not recorded after a later verdict of the same environment that is none. Where a driver
scope lets in verdicts of several environments, or two were recorded at once, it is found here.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.types import Result, Verdict


def without_outdated(said: Sequence[Verdict]) -> list[Verdict]:
    """Returns verdicts in their order, without passes issued before one among them that is none."""
    others = [one.issued_at for one in said if one.result is not Result.PASS]
    last = max(others, default=None)
    return [
        one
        for one in said
        if last is None or one.result is not Result.PASS or one.issued_at >= last
    ]
