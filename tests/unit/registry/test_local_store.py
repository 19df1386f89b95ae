"""What is particular to the local store: drafts, rights, full disks, and addresses."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from registry.blobs.interface import RANGE, blob_name
from registry.blobs.local import LocalBlobStore
from registry.blobs.select import open_store
from registry.digests import Digest, digest_bytes
from registry.errors import (
    DiskFullError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"some bytes")
    return path


def test_who_only_reads_makes_nothing(store: LocalBlobStore, tmp_path: Path) -> None:
    digest = digest_bytes(b"some bytes")
    found = (store.exists(digest), [*store.list_documents()], store.sweep(timedelta(0)), store.url)
    assert found == (False, [], [], (tmp_path / "store").as_uri())
    assert not (tmp_path / "store").exists()


def test_stored_bytes_are_read_only(store: LocalBlobStore, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "store" / blob_name(store.put_file(source))
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_nothing_is_left_of_a_draft(store: LocalBlobStore, source: Path, tmp_path: Path) -> None:
    store.put_file(source)
    store.put_document("a.json", b"{}")
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_what_a_killed_process_left_is_swept(store: LocalBlobStore, tmp_path: Path) -> None:
    store.put_document("first.json", b"{}")
    drafts = tmp_path / "store" / "tmp"
    for name in ("left", "held", "young"):
        (drafts / name).write_bytes(b"half")
        if name != "young":
            os.utime(drafts / name, (0, 0))
    with (drafts / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store.put_document("a.json", b"{}")
        assert sorted(path.name for path in drafts.iterdir()) == ["held", "young"]


def test_a_sweep_names_what_it_removes(store: LocalBlobStore, tmp_path: Path) -> None:
    store.put_document("first.json", b"{}")
    left = tmp_path / "store" / "tmp" / "left"
    left.write_bytes(b"half")
    assert store.sweep(timedelta(hours=1)) == []
    assert store.sweep(timedelta(seconds=-60), dry_run=True) == ["tmp/left"]
    assert left.exists()
    assert store.sweep(timedelta(seconds=-60)) == ["tmp/left"]
    assert not left.exists()


def _up_to(end: int) -> Callable[[int, bytes, int], int]:
    """Returns a `pwrite` that is interrupted where it would write behind an offset."""
    write = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= end:
            raise KeyboardInterrupt
        return write(descriptor, data, offset)

    return interrupted


def _raising(code: int) -> Callable[..., None]:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fails


def _links_that_overwrite(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


@pytest.mark.parametrize("link", [_raising(errno.EPERM), _links_that_overwrite])
def test_nothing_is_published_where_a_name_may_be_taken_twice(
    store: LocalBlobStore, source: Path, monkeypatch: pytest.MonkeyPatch, link: object
) -> None:
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreUnavailableError, match="no hard links"):
        store.put_file(source)
    with pytest.raises(StoreUnavailableError, match="no hard links"):
        store.put_document("a.json", b"{}")
    assert list(store.list_documents()) == []


def test_nothing_is_published_where_files_cannot_be_locked(
    store: LocalBlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(StoreUnavailableError, match="no file locks"):
        store.put_file(source)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_plainly_and_leaves_nothing(
    store: LocalBlobStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", _raising(code))
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        store.put_file(source)
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        store.put_document("a.json", b"{}")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_full_disk_on_the_way_out_leaves_nothing(
    store: LocalBlobStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_file(source)

    monkeypatch.setattr(os, "fsync", _raising(errno.ENOSPC))
    with pytest.raises(StoreUnavailableError, match="disk is full"):
        store.fetch(digest, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


def test_room_that_is_not_there_is_noticed_before_anything_is_written(
    store: LocalBlobStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put_file(source)
    room = list(os.statvfs(tmp_path))
    room[4] = 0  # f_bavail
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(room))
    monkeypatch.setattr(os, "pwrite", _raising(errno.EIO))
    with pytest.raises(DiskFullError):
        store.fetch(digest, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


def test_room_for_what_is_there_already_is_not_asked_for_again(
    store: LocalBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(RANGE + 1))
    digest = store.put_file(source)
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", _up_to(RANGE))
        with pytest.raises(KeyboardInterrupt):
            store.fetch(digest, tmp_path / "out")
    room = list(os.statvfs(tmp_path))
    room[1], room[4] = 1, 1  # f_frsize, f_bavail: one byte
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(room))
    store.fetch(digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_a_store_that_cannot_be_made_is_unavailable(source: Path) -> None:
    store = LocalBlobStore(source / "store")
    with pytest.raises(StoreUnavailableError):
        store.put_document("a.json", b"{}")


def test_a_folder_is_no_document(store: LocalBlobStore) -> None:
    store.put_document("a/b.json", b"{}")
    with pytest.raises(RecordNotFoundError):
        store.get_document("a")


def test_a_source_that_is_gone_is_said_plainly(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="absent"):
        store.put_file(tmp_path / "absent")


def test_only_sha256_names_a_blob() -> None:
    with pytest.raises(InvalidRecordError):
        blob_name(Digest("md5", digest_bytes(b"").value))


def test_a_file_address_opens_a_local_store(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    store = open_store(folder.as_uri())
    assert isinstance(store, LocalBlobStore)
    assert store.url == folder.as_uri()
    assert store.put_document("a.json", b"{}")
    assert (folder / "a.json").is_file()


@pytest.mark.parametrize(
    "url",
    [
        "", "/plain/path", "file://host/path", "file:", "http://x/y", "s3://", "s3:///prefix",
        "s3://b/p?endpoint=x", "s3://b/p?checksums=none", "s3://key:secret@b/p", "s3://b/../p",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidRecordError):
        open_store(url)


def test_a_secret_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidRecordError) as caught:
        open_store("s3://key:hunter2@bucket/prefix")
    assert "hunter2" not in str(caught.value)
