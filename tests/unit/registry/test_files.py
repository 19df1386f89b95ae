"""Small files: whole or not there, whatever a killed or failing writer leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from registry.files import write_whole


def test_a_file_is_replaced_whole_with_the_mode_it_is_to_have(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"longer than what follows")
    write_whole(path, b"new", mode=0o600)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert [one.name for one in tmp_path.iterdir()] == ["key.pem"]


def test_the_draft_of_a_killed_writer_stands_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".trust.json.new").write_bytes(b"half")
    write_whole(tmp_path / "trust.json", b"whole")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"whole"]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trust.json"
    path.write_bytes(b"before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"after")
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]
