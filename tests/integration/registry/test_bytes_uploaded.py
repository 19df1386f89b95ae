"""Publishing sends what is new and nothing else, counted at the wire."""

from __future__ import annotations

import pytest

from benchmarks.bytes_uploaded import PROMISED, Row, measure
from tests.fakes.servers import ACCESS_KEY, SECRET_KEY, S3Server

MEGABYTES = 22
"""A tenth of a real small engine, in all its files."""
HEADERS = 30_000
"""Bytes: what asking about seven objects takes, with a signature on every question."""


@pytest.fixture(scope="module")
def rows(seaweedfs_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        measured = measure(seaweedfs_server, tmp_path_factory.mktemp("bytes"), MEGABYTES)
    return {row.what.partition(",")[0]: row for row in measured}


def first(rows: dict[str, Row]) -> int:
    return rows["checkpoint"].sent + rows["first variant"].sent


def test_the_wire_carries_at_least_what_is_stored(rows: dict[str, Row]) -> None:
    assert all(row.stored <= row.sent for row in rows.values())
    assert first(rows) < 1.01 * (rows["checkpoint"].stored + rows["first variant"].stored)


def test_weights_are_sent_once_for_checkpoint_and_engines(rows: dict[str, Row]) -> None:
    assert rows["checkpoint"].stored > MEGABYTES * 1_000_000
    assert rows["first variant"].sent < PROMISED * first(rows)


@pytest.mark.parametrize("what", ["second variant", "rebuild after a driver change"])
def test_another_engine_of_the_same_checkpoint_sends_its_graphs(
    rows: dict[str, Row], what: str
) -> None:
    assert 0.01 * first(rows) < rows[what].sent <= PROMISED * first(rows)


def test_a_rebuild_that_changed_nothing_sends_its_signature_only(rows: dict[str, Row]) -> None:
    row = rows["rebuild that changed nothing"]
    assert row.objects == 1
    assert row.sent - row.stored < HEADERS


def test_publishing_again_sends_nothing_but_questions(rows: dict[str, Row]) -> None:
    row = rows["the same publication again"]
    assert (row.stored, row.objects) == (0, 0)
    assert row.sent < HEADERS
