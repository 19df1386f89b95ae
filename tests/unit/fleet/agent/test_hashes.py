"""Hashes that are kept: never another answer than hashing gives, and far fewer bytes read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.fleet.agent import hashes as module
from enginekeeper.fleet.agent.hashes import KeptHashes
from registry.digests import digest_bytes
from registry.manifests import size_and_digest

MIB = 1024 * 1024


class Clock:
    """Seconds since the epoch, far after every file was written."""

    def __init__(self) -> None:
        self.now = 4e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan"
    path.write_bytes(b"a" * (3 * MIB))
    return path


@pytest.fixture
def kept(tmp_path: Path, clock: Clock) -> KeptHashes:
    return KeptHashes(tmp_path / "agent" / "hashes.json", now=clock)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read whole."""
    found: list[Path] = []

    def noted(path: Path) -> tuple[int, object]:
        found.append(path)
        return size_and_digest(path)

    monkeypatch.setattr(module, "size_and_digest", noted)
    return found


def test_a_file_is_read_once_also_over_a_restart(
    kept: KeptHashes, file: Path, reads: list[Path], tmp_path: Path, clock: Clock
) -> None:
    assert kept(file) == kept(file) == size_and_digest(file)
    kept.end_round(0)
    again = KeptHashes(tmp_path / "agent" / "hashes.json", now=clock)
    assert again(file) == size_and_digest(file)
    assert reads == [file]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"b" * (3 * MIB)),
        lambda path: path.write_bytes(b"a"),
        lambda path: (path.unlink(), path.write_bytes(b"c" * (3 * MIB))),
        lambda path: (path.with_name("other").write_bytes(b"d" * (3 * MIB)),
                      path.with_name("other").replace(path)),
    ],
    ids=["written over", "shorter", "made anew", "replaced"],
)  # fmt: skip
def test_a_file_that_changed_is_read_again(
    kept: KeptHashes, file: Path, change: Callable[[Path], object]
) -> None:
    kept(file)
    before = file.stat()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a time that was set back
    assert kept(file) == size_and_digest(file)


def test_a_file_that_was_written_a_moment_ago_is_not_kept(
    kept: KeptHashes, file: Path, reads: list[Path], clock: Clock
) -> None:
    clock.now = file.stat().st_mtime + 1
    kept(file)
    kept(file)
    assert reads == [file, file]


def test_what_a_disk_forgot_shows_after_a_while(
    kept: KeptHashes, file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = kept(file)
    real = file.stat()
    rotten = digest_bytes(b"x" * (3 * MIB))
    look = module._Print.of(real)  # the file looks as before
    file.write_bytes(b"x" * (3 * MIB))
    monkeypatch.setattr(module._Print, "of", lambda _: look)
    for _ in range(3):
        assert kept(file) == good
        clock.now += 7200
        kept.end_round(MIB)  # a third each time
    assert kept(file) == (3 * MIB, rotten)


def test_files_are_left_alone_for_an_hour(kept: KeptHashes, file: Path, clock: Clock) -> None:
    kept(file)
    clock.now += 60
    kept.end_round(100 * MIB)
    assert kept._reading is None


def test_a_file_that_goes_while_it_is_read_again_is_forgotten(
    kept: KeptHashes, file: Path, clock: Clock
) -> None:
    kept(file)
    clock.now += 7200
    kept.end_round(MIB)
    file.unlink()
    kept.end_round(MIB)
    with pytest.raises(FileNotFoundError):
        kept(file)


def test_a_file_that_cannot_be_read_again_is_not_believed_after_a_restart_either(
    kept: KeptHashes, reads: list[Path], tmp_path: Path, clock: Clock
) -> None:
    file = tmp_path / "disk" / "plan"
    file.parent.mkdir()
    file.write_bytes(b"a")
    kept(file)
    kept.end_round(0)
    clock.now += 7200
    kept(file)
    away = file.parent.rename(tmp_path / "away")  # a disk that does not answer for a while
    kept.end_round(MIB)
    away.rename(file.parent)
    KeptHashes(tmp_path / "agent" / "hashes.json", now=clock)(file)
    assert reads == [file, file]


def test_files_that_nobody_asks_for_any_more_are_forgotten(kept: KeptHashes, file: Path) -> None:
    kept(file)
    kept.end_round(0)
    kept.end_round(0)
    assert kept._known == {}


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 2}', '{"schema": 1, "files": {"/a": [1]}}', "[]",
             '{"schema": 1, "files": {"/a": [1, 2, 3, 4, 5, "x", 6]}}'],
)  # fmt: skip
def test_a_damaged_memory_costs_time_and_nothing_else(
    tmp_path: Path, file: Path, clock: Clock, text: str
) -> None:
    (tmp_path / "h.json").write_text(text)
    kept = KeptHashes(tmp_path / "h.json", now=clock)
    assert kept(file) == size_and_digest(file)


def test_a_link_is_not_followed(kept: KeptHashes, file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(OSError, match="symbolic links"):
        kept(link)
