"""Which of several verdicts still speak: an old pass that was recorded late does not.

A pass is not recorded after a later verdict of the same environment that is none. Where a driver
scope lets in verdicts of several environments, or two were recorded at once, it is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from registry.types import Result


class Issued(Protocol):
    """What was said, and when."""

    @property
    def result(self) -> Result:
        """What it says."""

    @property
    def issued_at(self) -> datetime | None:
        """When it was signed; None where that is known to change nothing."""


Said = TypeVar("Said", bound=Issued)


def without_outdated(said: Sequence[Said]) -> list[Said]:
    """Returns verdicts in their order, without passes issued before one among them that is none."""
    others = (one.issued_at for one in said if one.result is not Result.PASS)
    last = max((one for one in others if one is not None), default=None)
    return [one for one in said if last is None or not _is_before(one, last)]


def _is_before(one: Issued, last: datetime) -> bool:
    return one.result is Result.PASS and one.issued_at is not None and one.issued_at < last
