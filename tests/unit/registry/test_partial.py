"""Files that grow piece by piece: what is gone on with, what is not, and what is left."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.blobs.partial import Source, assemble, locked, write_at
from registry.digests import digest_bytes
from registry.errors import IntegrityError, RecordNotFoundError, StoreUnavailableError
from tests.fakes.stores import Killed

DATA = bytes(range(10))
PIECE = 3


class Pieces:
    """A source that remembers from where it was read, and fails where a test says."""

    def __init__(self, data: bytes = DATA, *, fails_at: int = 99, with_: BaseException) -> None:
        self.starts: list[int] = []
        self._data, self._fails_at, self._error = data, fails_at, with_

    def source(self, *, promised: bytes = DATA) -> Source:
        return Source(digest_bytes(promised), len(promised), "the source", self._fill)

    def _fill(self, descriptor: int, start: int) -> Iterator[int]:
        self.starts.append(start)
        for at in range(start, len(self._data), PIECE):
            if at >= self._fails_at:
                raise self._error
            yield at + write_at(descriptor, at, self._data[at : at + PIECE])


def whole(data: bytes = DATA) -> Pieces:
    return Pieces(data, with_=AssertionError())


def interrupt(destination: Path, *, at: int = 6, data: bytes = DATA) -> None:
    pieces = Pieces(data, fails_at=at, with_=Killed())
    with pytest.raises(Killed):
        assemble(pieces.source(promised=data), destination)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("data", [b"", b"x", DATA])
def test_a_file_appears_whole(destination: Path, data: bytes) -> None:
    assemble(whole(data).source(promised=data), destination)
    assert destination.read_bytes() == data
    assert left(destination.parent) == ["file"]


def test_an_interrupted_file_is_not_there_and_is_gone_on_with(destination: Path) -> None:
    interrupt(destination, at=6)
    assert left(destination.parent) == ["file.partial", "file.partial.sha256"]
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [6]
    assert destination.read_bytes() == DATA
    assert left(destination.parent) == ["file"]


def test_it_may_be_interrupted_again_and_again(destination: Path) -> None:
    for at in (3, 3, 6, 9):
        interrupt(destination, at=at)
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [9]
    assert destination.read_bytes() == DATA


@pytest.mark.parametrize(("broken", "goes_on_at"), [(0, 0), (4, 3), (7, 6)])
def test_a_torn_write_costs_only_what_follows_it(
    destination: Path, broken: int, goes_on_at: int
) -> None:
    interrupt(destination, at=9)
    partial = destination.with_name("file.partial")
    data = bytearray(partial.read_bytes())
    data[broken] ^= 1
    partial.write_bytes(data)
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [goes_on_at]
    assert destination.read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 2, 5, 50])
def test_a_partial_of_another_length_is_cut_or_gone_on_with(destination: Path, size: int) -> None:
    interrupt(destination, at=9)
    os.truncate(destination.with_name("file.partial"), size)
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [min(size // PIECE * PIECE, 9)]
    assert destination.read_bytes() == DATA


@pytest.mark.parametrize(
    "journal", ["", "{digest}\n", "{digest}\nx y\n", "{digest}\n-3 00\n", "\xff"]
)
def test_a_journal_that_says_nothing_is_no_reason_to_go_on(destination: Path, journal: str) -> None:
    interrupt(destination)
    path = destination.with_name("file.partial.sha256")
    path.write_bytes(journal.format(digest=digest_bytes(DATA)).encode("latin-1"))
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [0]
    assert destination.read_bytes() == DATA


def test_a_journal_cannot_reach_beyond_the_file(destination: Path) -> None:
    interrupt(destination, data=DATA + b"more", at=12)
    journal = destination.with_name("file.partial.sha256")
    journal.write_text(
        journal.read_text().replace(str(digest_bytes(DATA + b"more")), str(digest_bytes(DATA)))
    )
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [9]
    assert destination.read_bytes() == DATA


def test_what_is_left_of_another_file_is_not_gone_on_with(destination: Path) -> None:
    interrupt(destination, data=b"something else")
    pieces = whole()
    assemble(pieces.source(), destination)
    assert pieces.starts == [0]
    assert destination.read_bytes() == DATA


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"x" * 10])
def test_other_bytes_leave_nothing(destination: Path, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not those"):
        assemble(whole(data).source(), destination)
    assert left(destination.parent) == []


@pytest.mark.parametrize(
    "error", [RecordNotFoundError("gone"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_that_lasts_leaves_nothing(destination: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        assemble(Pieces(fails_at=6, with_=error).source(), destination)
    assert left(destination.parent) == []


@pytest.mark.parametrize(("at", "kept"), [(0, []), (3, ["file.partial", "file.partial.sha256"])])
def test_a_source_that_goes_away_leaves_what_is_verified(
    destination: Path, at: int, kept: list[str]
) -> None:
    away = StoreUnavailableError("away")
    with pytest.raises(StoreUnavailableError):
        assemble(Pieces(fails_at=at, with_=away).source(), destination)
    assert left(destination.parent) == kept


def test_a_link_in_the_place_of_the_partial_is_not_followed(destination: Path) -> None:
    victim = destination.with_name("victim")
    victim.write_bytes(b"precious")
    destination.with_name("file.partial").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        assemble(whole().source(), destination)
    assert victim.read_bytes() == b"precious"


def test_two_who_write_one_file_do_so_one_after_the_other(destination: Path) -> None:
    pieces = whole()
    with locked(destination.with_name("file.partial")):
        waiting = threading.Thread(target=assemble, args=(pieces.source(), destination))
        waiting.start()
        waiting.join(0.2)
        assert pieces.starts == []
        destination.with_name("file.partial").rename(destination)  # the first one is done
    waiting.join(60)
    assert pieces.starts == [0]
    assert destination.read_bytes() == DATA
