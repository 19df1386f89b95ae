"""Which engines were put onto this node: recorded, found again, and never guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.fleet.placements import bytes_now, placements, record_placement
from registry.digests import digest_bytes

ENGINE, OTHER = digest_bytes(b"engine"), digest_bytes(b"other")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "node" / "engine"
    path.mkdir(parents=True)
    return path


def test_a_node_without_records_has_no_engines(tmp_path: Path) -> None:
    assert list(placements(tmp_path)) == []


def test_what_cannot_be_listed_is_not_a_node_without_engines(tmp_path: Path) -> None:
    (tmp_path / "placements").write_text("of another kind")
    with pytest.raises(InputError, match="cannot be listed") as caught:
        list(placements(tmp_path))
    assert caught.value.where == str(tmp_path / "placements")


def test_a_placement_is_found_as_recorded(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.parent)
    before = datetime.now(UTC)
    record_placement(tmp_path, ENGINE, Path("engine"))
    (found,) = placements(tmp_path)
    assert (found.engine, found.path) == (ENGINE, place)
    assert before <= found.placed_at <= datetime.now(UTC)
    assert [file.suffix for file in (tmp_path / "placements").iterdir()] == [".json"]


def test_the_newest_record_of_a_path_counts(tmp_path: Path, place: Path) -> None:
    record_placement(tmp_path, ENGINE, place)
    record_placement(tmp_path, OTHER, place)
    assert [found.engine for found in placements(tmp_path)] == [OTHER]


def test_one_engine_may_lie_in_two_places(tmp_path: Path, place: Path) -> None:
    second = place.with_name("second")
    second.mkdir()
    record_placement(tmp_path, ENGINE, place)
    record_placement(tmp_path, ENGINE, second)
    assert {found.path for found in placements(tmp_path)} == {place, second}


def test_what_was_removed_is_still_expected_until_its_record_goes(
    tmp_path: Path, place: Path
) -> None:
    record_placement(tmp_path, ENGINE, place)
    place.rmdir()
    (found,) = placements(tmp_path)
    assert found.path == place
    found.record.unlink()
    assert list(placements(tmp_path)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "not a digest"},
        {"engine": 5},
        {"engine": None},
        {"path": 5},
        {"placed_at": "yesterday"},
        {"placed_at": None},
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, place: Path, change: dict[str, object]) -> None:
    record_placement(tmp_path, ENGINE, place)
    (file,) = (tmp_path / "placements").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputError, match="placement record") as caught:
        list(placements(tmp_path))
    assert caught.value.where == str(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_record_that_is_none_is_named(tmp_path: Path, place: Path, text: str) -> None:
    record_placement(tmp_path, ENGINE, place)
    (file,) = (tmp_path / "placements").iterdir()
    file.write_text(text)
    with pytest.raises(InputError, match="placement record"):
        list(placements(tmp_path))


def test_a_place_that_may_not_be_looked_at_is_said_and_ends_nothing(tmp_path: Path) -> None:
    out_of_reach = tmp_path / ("x" * 300)  # as for a directory of another user: the system refuses
    record_placement(tmp_path, ENGINE, out_of_reach, key=OTHER)
    (found,) = placements(tmp_path)
    said = bytes_now(found, key=found.key, simulated=False)
    assert said == "UNREADABLE: File name too long"
