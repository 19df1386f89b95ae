"""How a node is: by when it was heard, what it says of itself, and its clock."""

from __future__ import annotations

from datetime import timedelta

import pytest

from enginekeeper.fleet.health import STALE_AFTER, Diagnosis, Health, age, diagnose
from tests.factories.fleet import NOON


@pytest.mark.parametrize(
    ("problems", "ago", "offset", "expected"),
    [
        ((), timedelta(0), 0, Health.HEALTHY),
        ((), STALE_AFTER, 300, Health.HEALTHY),
        (("GPU 3: lost",), timedelta(0), 0, Health.DEGRADED),
        ((), timedelta(0), -301, Health.DEGRADED),
        (("GPU 3: lost",), STALE_AFTER + timedelta(seconds=1), 0, Health.STALE),
        (None, timedelta(0), 0, Health.SILENT),
        ((), None, 0, Health.SILENT),
    ],
)
def test_the_gravest_counts(
    problems: tuple[str, ...] | None, ago: timedelta | None, offset: int, expected: Health
) -> None:
    seen = None if ago is None else NOON - ago
    assert diagnose(problems, seen, NOON, clock_offset=offset).health is expected


def test_every_reason_is_told() -> None:
    found = diagnose(("GPU 3: lost",), NOON - timedelta(hours=3), NOON, clock_offset=9999)
    assert found == Diagnosis(
        Health.STALE, ("not heard for 3h", "GPU 3: lost", "its clock is +9999 s off")
    )


@pytest.mark.parametrize(
    ("ago", "text"),
    [({"seconds": -5}, "0s"), ({"seconds": 119}, "119s"), ({"minutes": 2}, "2m"),
     ({"minutes": 119}, "119m"), ({"hours": 2}, "2h"), ({"days": 9}, "9d")],
)  # fmt: skip
def test_ages_are_said_in_the_unit_that_fits(ago: dict[str, float], text: str) -> None:
    assert age(NOON - timedelta(**ago), NOON) == text
