"""Since when something is so without a gap, by intervals."""

from __future__ import annotations

import pytest

from registry.fleet.spans import Telling, held_since
from tests.factories.fleet import minutes


@pytest.mark.parametrize(
    ("spans", "since"),
    [
        ([], None),
        ([Telling(minutes(0), minutes(1))], None),
        ([Telling(minutes(2), None)], 2),
        ([Telling(minutes(0), minutes(2)), Telling(minutes(2), None)], 0),
        ([Telling(minutes(0), minutes(1)), Telling(minutes(2), None)], 2),
        # at two places, of which one was longer
        ([Telling(minutes(3), None), Telling(minutes(1), minutes(4))], 1),
        # nothing was told for a while, and before it something else
        ([Telling(minutes(1), minutes(2), tells=False), Telling(minutes(2), None)], 2),
        ([Telling(minutes(0), minutes(1)), Telling(minutes(1), minutes(2), tells=False),
          Telling(minutes(2), None)], 0),
    ],
)  # fmt: skip
def test_what_is_so_began_where_the_last_gap_ends(spans: list[Telling], since: int | None) -> None:
    found = held_since(reversed(spans))
    assert (found, held_since(spans)) == (None if since is None else minutes(since), found)
