"""Large files on their way to and from S3: interrupted, gone on with, spoiled, and swept."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest, AWSResponse

from registry.blobs import s3, s3_download, s3_upload
from registry.blobs.interface import Progress, blob_name
from registry.blobs.s3 import S3BlobStore
from registry.blobs.select import open_store
from registry.digests import digest_file
from registry.errors import IntegrityError, StoreUnavailableError
from tests.fakes.servers import S3Server
from tests.fakes.stores import Killed
from tests.fakes.wire import answer, answers, on, watch

pytestmark = pytest.mark.usefixtures("s3_credentials", "small_parts")
PART = 5 * 1024 * 1024
"""Bytes; the smallest that S3 takes."""
SIZE = 4 * PART + 7


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (s3, s3_upload):
        monkeypatch.setattr(module, "PART", PART)
    monkeypatch.setattr(s3_download, "RANGE", PART)


@pytest.fixture
def opened(seaweedfs_server: S3Server) -> Callable[..., S3BlobStore]:
    """Opens the same store, as another process would."""
    url = seaweedfs_server.url(f"tests/{uuid.uuid4().hex}")

    def once_more(progress: Progress | None = None) -> S3BlobStore:
        store = open_store(url, progress=progress)
        assert isinstance(store, S3BlobStore)
        assert store._server.resume  # the probe is over: what is counted is the test's own
        return store

    return once_more


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


def dies_at(end: int) -> Progress:
    def listen(_name: str, done: int, _total: int) -> None:
        if done >= end:
            raise Killed

    return listen


def interrupt_upload(opened: Callable[..., S3BlobStore], source: Path) -> None:
    """Leaves an upload with at least two parts, as a killed process does."""
    with pytest.raises(Killed):
        opened(dies_at(2 * PART)).put_file(source)


def parts_of(store: S3BlobStore, source: Path) -> list[Any]:
    """Returns the parts of the one upload that is under way."""
    key = store._root.key + blob_name(digest_file(source))
    bucket = store._root.bucket
    (upload,) = store._root.client.list_multipart_uploads(Bucket=bucket, Prefix=key)["Uploads"]
    return store._root.client.list_parts(Bucket=bucket, Key=key, UploadId=upload["UploadId"])[
        "Parts"
    ]


def uploads(store: S3BlobStore) -> list[Any]:
    listed = store._root.client.list_multipart_uploads(
        Bucket=store._root.bucket, Prefix=store._root.key
    )
    return listed.get("Uploads", [])


def number_of(request: AWSRequest) -> int:
    return int(str(request.url).partition("partNumber=")[2].partition("&")[0])


def start_of(request: AWSRequest) -> int:
    header = request.headers["Range"]
    text = header.decode() if isinstance(header, bytes) else str(header)
    return int(text.removeprefix("bytes=").partition("-")[0])


def test_an_upload_goes_on_from_its_finished_parts(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    interrupt_upload(opened, source)
    store = opened()
    there = {part["PartNumber"] for part in parts_of(store, source)}
    sent = watch(store, "UploadPart")
    digest = store.put_file(source)
    assert len(there) >= 2
    assert {number_of(one) for one in sent} == {1, 2, 3, 4, 5} - there
    store.fetch(digest, tmp_path / "out")
    assert uploads(store) == []


def test_a_part_that_is_not_of_this_file_is_sent_again(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    """The upload is begun by hand: SeaweedFS keeps both of two parts that have one number."""
    store = opened()
    target = store._object(blob_name(digest_file(source)))
    left = s3_upload.Sender(checksums=True, create_once=True, resume=False).begin(target)
    left.send((1, b"x" * PART))
    left.send((2, source.read_bytes()[PART : 2 * PART]))
    sent = watch(store, "UploadPart")
    store.fetch(store.put_file(source), tmp_path / "out")
    assert sorted(map(number_of, sent)) == [1, 3, 4, 5]
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_an_upload_whose_parts_are_spoiled_meanwhile_is_sent_anew(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    interrupt_upload(opened, source)
    store = opened()
    on(store, "CompleteMultipartUpload", answers("InvalidPart", 400, times=1)[0])
    store.fetch(store.put_file(source), tmp_path / "out")
    assert uploads(store) == []


def test_an_upload_that_somebody_else_completed_is_taken_as_it_is(
    opened: Callable[..., S3BlobStore], source: Path
) -> None:
    interrupt_upload(opened, source)
    digest = digest_file(source)

    def complete(_name: str, done: int, _total: int) -> None:
        if done == PART:
            other.put_file(source)

    other, store = opened(), opened(complete)
    assert store.put_file(source) == digest
    assert uploads(store) == []


def test_many_who_send_one_file_at_once_store_it_once(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    stores = [opened() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda store: store.put_file(source), stores))
    assert digests == {digest_file(source)}
    stores[0].fetch(digests.pop(), tmp_path / "out")
    assert uploads(stores[0]) == []


def test_an_upload_gone_on_with_other_bytes_leaves_nothing(
    opened: Callable[..., S3BlobStore], source: Path
) -> None:
    interrupt_upload(opened, source)
    digest = digest_file(source)
    source.write_bytes(source.read_bytes()[:-1] + b"?")
    store = opened()
    with pytest.raises(IntegrityError):
        store.put_file(source, expected=digest)
    assert not store.exists(digest)
    assert uploads(store) == []


def test_a_network_that_fails_leaves_the_parts(
    opened: Callable[..., S3BlobStore], source: Path
) -> None:
    store = opened()

    def fails(request: AWSRequest, **_: object) -> AWSResponse | None:
        if number_of(request) < 3:
            return None
        return answer(request, 403, b"<Error><Code>ExpiredToken</Code></Error>")

    on(store, "UploadPart", fails)
    with pytest.raises(StoreUnavailableError, match="ExpiredToken"):
        store.put_file(source)
    assert {part["PartNumber"] for part in parts_of(store, source)} == {1, 2}


def test_a_fetch_goes_on_from_what_is_verified(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    digest = opened().put_file(source)
    with pytest.raises(Killed):
        opened(dies_at(3 * PART)).fetch(digest, tmp_path / "out")
    with (tmp_path / "out.partial").open("r+b") as partial:
        partial.seek(2 * PART + 5)
        partial.write(b"torn")
    store = opened()
    asked = watch(store, "GetObject")
    store.fetch(digest, tmp_path / "out")
    assert sorted(map(start_of, asked)) == [2 * PART, 3 * PART, 4 * PART]
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("what", ["cut short", "no range"])
def test_a_range_that_does_not_come_once_is_asked_for_again(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path, what: str
) -> None:
    store = opened()
    digest = store.put_file(source)
    status, body = (206, b"who") if what == "cut short" else (200, bytes(SIZE))
    seen: list[int] = []

    def once(request: AWSRequest, **_: object) -> AWSResponse | None:
        seen.append(start_of(request))
        return answer(request, status, body) if len(seen) == 1 else None

    on(store, "GetObject", once)
    store.fetch(digest, tmp_path / "out")
    assert len(seen) == 6


def test_a_server_that_goes_away_leaves_what_is_verified(
    opened: Callable[..., S3BlobStore], source: Path, tmp_path: Path
) -> None:
    store = opened()
    digest = store.put_file(source)

    def fails(request: AWSRequest, **_: object) -> AWSResponse | None:
        if start_of(request) == 0:
            return None
        return answer(request, 403, b"<Error><Code>ExpiredToken</Code></Error>")

    on(store, "GetObject", fails)
    with pytest.raises(StoreUnavailableError, match="ExpiredToken"):
        store.fetch(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    back = opened()
    asked = watch(back, "GetObject")
    back.fetch(digest, tmp_path / "out")
    assert min(map(start_of, asked)) == PART


def test_abandoned_uploads_of_ours_are_swept_and_no_others(
    opened: Callable[..., S3BlobStore], source: Path
) -> None:
    interrupt_upload(opened, source)
    store = opened()
    names = [blob_name(digest_file(source))]
    for key in (f"{store._root.key}theirs", f"{store._root.key.rstrip('/')}-2/{names[0]}"):
        store._root.client.create_multipart_upload(Bucket=store._root.bucket, Key=key)
    assert store.sweep(timedelta(hours=1)) == []
    assert store.sweep(timedelta(seconds=-60), dry_run=True) == names
    assert store.sweep(timedelta(seconds=-60)) == names
    assert [one["Key"] for one in uploads(store)] == [f"{store._root.key}theirs"]


def test_the_first_large_upload_sweeps_what_is_abandoned(
    opened: Callable[..., S3BlobStore],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupt_upload(opened, source)
    (tmp_path / "other").write_bytes(bytes(SIZE))
    store = opened()
    store.put_file(tmp_path / "other")
    assert len(uploads(store)) == 1
    monkeypatch.setattr(s3, "ABANDONED", timedelta(seconds=-60))
    (tmp_path / "third").write_bytes(b"x" * SIZE)
    opened().put_file(tmp_path / "third")
    assert uploads(store) == []


_MEMORY = """
import re, sys
from pathlib import Path
from registry.blobs.select import open_store
store = open_store(sys.argv[1])
store.fetch(store.put_file(Path(sys.argv[2])), Path(sys.argv[3]))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_file(seaweedfs_server: S3Server, tmp_path: Path) -> None:
    """With the real size of parts; benchmarks/store_throughput.py shows the same for 1 GiB."""
    with (tmp_path / "in").open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    url = seaweedfs_server.url(f"tests/{uuid.uuid4().hex}")
    arguments = [url, str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, *arguments], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 300 * 1024
