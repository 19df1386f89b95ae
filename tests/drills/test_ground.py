"""The look after a drill sees what is missing: a count of zero could be something else."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from tests.drills.ground import Ground


@pytest.mark.parametrize(
    ("tables", "missing"),
    [
        (("qualifications", "verdicts"), "verdict"),
        (("channel_positions", "channel_moves"), "move"),
    ],
)
def test_a_verdict_or_a_move_that_was_acknowledged_and_is_gone_counts_as_lost(
    local_ground: Ground, tables: tuple[str, ...], missing: str
) -> None:
    local_ground.live(local_ground.publication())
    assert local_ground.look().lost == ()

    database = create_engine(local_ground.catalogue_url)
    with database.begin() as connection:
        for table in tables:
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - names of ours
    database.dispose()
    (lost,) = local_ground.look().lost
    assert lost.startswith(missing)
