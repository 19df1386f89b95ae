"""One contract for every artifact store: a local directory, SeaweedFS and moto over S3.

What moto cannot do stands in MOTO_CANNOT, with the reason; everything else it is held to.
"""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from registry.blobs.interface import (
    BLOB_ROOT,
    MAX_DOCUMENT,
    PART,
    RANGE,
    BlobStore,
    Progress,
    blob_name,
    blob_of,
)
from registry.blobs.select import open_store
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
)
from tests.fakes.damage import overwrite
from tests.fakes.servers import S3Server
from tests.fakes.stores import Killed

LARGE = 2 * RANGE + 7
"""Bytes: two full parts and a bit."""

_NO_LOCK = "looks and then writes, without a lock: two racers may win there"
MOTO_CANNOT = {
    "test_of_many_that_create_one_document_one_wins": _NO_LOCK,
    "test_of_many_that_move_one_document_one_wins": _NO_LOCK,
}


@pytest.fixture(params=["local", "seaweedfs", "moto"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "local":
        return (tmp_path / "store").as_uri()
    test = request.node.originalname
    if request.param == "moto" and test in MOTO_CANNOT:
        pytest.skip(f"moto {MOTO_CANNOT[test]}")
    request.getfixturevalue("s3_credentials")
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server.url(f"tests/{uuid.uuid4().hex}")


@pytest.fixture
def store(address: str) -> BlobStore:
    return open_store(address)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"some bytes")
    return path


class TestBlobStore:
    @pytest.mark.parametrize("size", [0, 1, PART - 1, PART, LARGE])
    def test_what_goes_in_comes_out(self, store: BlobStore, tmp_path: Path, size: int) -> None:
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        (tmp_path / "in").write_bytes(data)
        digest = store.put_file(tmp_path / "in")
        store.fetch(digest, tmp_path / "out")
        assert digest == digest_bytes(data)
        assert (tmp_path / "out").read_bytes() == data

    def test_putting_twice_is_putting_once(self, store: BlobStore, source: Path) -> None:
        digest = store.put_file(source)
        assert store.put_file(source) == digest
        assert store.put_file(source, expected=digest) == digest
        assert store.exists(digest)

    def test_many_put_the_same_at_once(
        self, store: BlobStore, source: Path, tmp_path: Path
    ) -> None:
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: store.put_file(source), range(16)))
        assert digests == {digest_bytes(b"some bytes")}
        store.fetch(digests.pop(), tmp_path / "out")

    @pytest.mark.parametrize("size", [10, LARGE])
    def test_other_bytes_than_promised_are_not_stored(
        self, store: BlobStore, tmp_path: Path, size: int
    ) -> None:
        (tmp_path / "in").write_bytes(b"x" * size)
        promised = digest_bytes(b"something else")
        with pytest.raises(IntegrityError):
            store.put_file(tmp_path / "in", expected=promised)
        assert not store.exists(promised)
        assert not store.exists(digest_bytes(b"x" * size))

    def test_other_bytes_are_noticed_though_the_blob_is_there(
        self, store: BlobStore, source: Path, tmp_path: Path
    ) -> None:
        digest = store.put_file(source)
        (tmp_path / "forged").write_bytes(b"same bytes"[:10])
        with pytest.raises(IntegrityError):
            store.put_file(tmp_path / "forged", expected=digest)

    def test_an_absent_blob_is_not_found(self, store: BlobStore, tmp_path: Path) -> None:
        absent = digest_bytes(b"absent")
        assert not store.exists(absent)
        with pytest.raises(RecordNotFoundError):
            store.fetch(absent, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

    def test_swapped_bytes_do_not_come_out(
        self, store: BlobStore, source: Path, tmp_path: Path
    ) -> None:
        digest = store.put_file(source)
        overwrite(store, blob_name(digest), b"some byteS")
        with pytest.raises(IntegrityError):
            store.fetch(digest, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

    def test_a_damaged_blob_is_replaced_by_good_bytes_only(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        (tmp_path / "good").write_bytes(b"whole")
        (tmp_path / "bad").write_bytes(b"other")
        digest = store.put_file(tmp_path / "good")
        overwrite(store, blob_name(digest), b"whoLe")
        with pytest.raises(IntegrityError):
            store.replace_file(tmp_path / "bad", digest)
        assert store.is_damaged(digest)
        store.replace_file(tmp_path / "good", digest)
        assert not store.is_damaged(digest)

    def test_damage_is_noticed_and_what_was_removed_can_be_put_again(
        self, store: BlobStore, source: Path, tmp_path: Path
    ) -> None:
        digest = store.put_file(source)
        assert not store.is_damaged(digest)
        overwrite(store, blob_name(digest), b"some byteS")
        assert store.is_damaged(digest)
        store.remove(digest)
        store.remove(digest)
        assert not store.exists(digest)
        store.put_file(source)
        store.fetch(digest, tmp_path / "out")

    def test_a_document_that_is_too_long_is_not_cut(self, store: BlobStore) -> None:
        store.put_document("long.json", b" " * (MAX_DOCUMENT + 1))
        store.put_document("whole.json", b" " * MAX_DOCUMENT)
        assert len(store.get_document("whole.json")) == MAX_DOCUMENT
        with pytest.raises(IntegrityError, match="longer"):
            store.get_document("long.json")

    def test_a_document_reads_back(self, store: BlobStore) -> None:
        assert store.put_document("a/b.json", b"{}")
        assert store.get_document("a/b.json") == b"{}"

    def test_a_document_is_created_once(self, store: BlobStore) -> None:
        assert store.put_document("a.json", b"one")
        assert not store.put_document("a.json", b"one")
        with pytest.raises(ConflictError):
            store.put_document("a.json", b"two")
        assert store.get_document("a.json") == b"one"

    def test_a_document_may_be_replaced_on_purpose(self, store: BlobStore) -> None:
        assert store.put_document("a.json", b"one", if_absent=False)
        assert not store.put_document("a.json", b"one", if_absent=False)
        assert store.put_document("a.json", b"two", if_absent=False)
        assert store.get_document("a.json") == b"two"

    def test_of_many_that_create_one_document_one_wins(self, store: BlobStore) -> None:
        def create(number: int) -> bool | None:
            try:
                return store.put_document("a.json", str(number).encode())
            except ConflictError:
                return None

        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(create, range(16)))
        assert created.count(True) == 1
        assert store.get_document("a.json") == str(created.index(True)).encode()

    def test_a_document_moves_from_the_version_it_was_read_in(self, store: BlobStore) -> None:
        store.put_document("a.json", b"one")
        read = store.read_document("a.json")
        assert read.data == b"one"
        assert store.put_document("a.json", b"two", if_match=read.version)
        assert store.get_document("a.json") == b"two"
        assert store.read_document("a.json").version != read.version

    def test_a_document_does_not_move_from_another_version(self, store: BlobStore) -> None:
        store.put_document("a.json", b"one")
        read = store.read_document("a.json")
        store.put_document("a.json", b"two", if_match=read.version)
        with pytest.raises(ConflictError, match="other bytes"):
            store.put_document("a.json", b"three", if_match=read.version)
        assert store.get_document("a.json") == b"two"

    def test_a_document_that_is_not_there_does_not_move(self, store: BlobStore) -> None:
        store.put_document("a.json", b"one")
        version = store.read_document("a.json").version
        with pytest.raises(ConflictError, match="not there"):
            store.put_document("b.json", b"two", if_match=version)
        with pytest.raises(RecordNotFoundError):
            store.get_document("b.json")

    def test_moving_a_document_to_what_it_is_by_now_is_nothing(self, store: BlobStore) -> None:
        store.put_document("a.json", b"one")
        read = store.read_document("a.json")
        store.put_document("a.json", b"two", if_match=read.version)
        assert not store.put_document("a.json", b"two", if_match=read.version)

    def test_of_many_that_move_one_document_one_wins(self, store: BlobStore, address: str) -> None:
        store.put_document("a.json", b"before")
        version = store.read_document("a.json").version
        ready = Barrier(8)

        def move(number: int) -> bool | None:
            racer = open_store(address)  # as processes of their own would
            ready.wait()
            try:
                return racer.put_document("a.json", str(number).encode(), if_match=version)
            except ConflictError:
                return None

        with ThreadPoolExecutor(8) as pool:
            moved = list(pool.map(move, range(8)))
        assert moved.count(True) == 1
        assert store.get_document("a.json") == str(moved.index(True)).encode()

    def test_an_absent_document_is_not_found(self, store: BlobStore) -> None:
        with pytest.raises(RecordNotFoundError):
            store.get_document("a.json")

    def test_documents_are_listed_in_order_and_without_blobs(
        self, store: BlobStore, source: Path
    ) -> None:
        store.put_file(source)
        for name in ("b.json", "a/b.json", "a-b.json", "a/c/d.json"):
            store.put_document(name, b"")
        assert list(store.list_documents()) == ["a-b.json", "a/b.json", "a/c/d.json", "b.json"]
        assert list(store.list_documents("a/")) == ["a/b.json", "a/c/d.json"]
        assert list(store.list_documents("none/")) == []

    @pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", "a//b", "a\x00"])
    def test_a_name_that_could_leave_the_store_is_refused(
        self, store: BlobStore, name: str
    ) -> None:
        with pytest.raises(InvalidRecordError):
            store.put_document(name, b"")
        with pytest.raises(InvalidRecordError):
            store.get_document(name)

    def test_an_interrupted_fetch_is_gone_on_with(
        self, store: BlobStore, address: str, tmp_path: Path
    ) -> None:
        (tmp_path / "in").write_bytes(os.urandom(LARGE))
        digest = store.put_file(tmp_path / "in")
        with pytest.raises(Killed):
            open_store(address, progress=killed_at(RANGE)).fetch(digest, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        ends: list[int] = []
        open_store(address, progress=lambda _name, done, _total: ends.append(done)).fetch(
            digest, tmp_path / "out"
        )
        assert ends == [2 * RANGE, LARGE]
        assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
        assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]

    def test_an_interrupted_put_completes_when_it_is_run_again(
        self, store: BlobStore, address: str, tmp_path: Path
    ) -> None:
        (tmp_path / "in").write_bytes(os.urandom(LARGE))
        with pytest.raises(Killed):
            open_store(address, progress=killed_at(PART)).put_file(tmp_path / "in")
        digest = store.put_file(tmp_path / "in")
        store.fetch(digest, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()

    def test_progress_comes_in_order_and_ends_with_the_whole(
        self, address: str, tmp_path: Path
    ) -> None:
        heard: list[tuple[str, int, int]] = []
        store = open_store(address, progress=lambda *one: heard.append(one))
        (tmp_path / "in").write_bytes(bytes(LARGE))
        digest = store.put_file(tmp_path / "in")
        assert [name for name, _, _ in heard] == ["in"] * len(heard)
        assert heard == sorted(heard)
        assert heard[-1] == ("in", LARGE, LARGE)
        heard.clear()
        store.fetch(digest, tmp_path / "out")
        assert heard == [("out", end, LARGE) for end in (RANGE, 2 * RANGE, LARGE)]

    def test_a_document_is_removed_and_may_be_created_again(self, store: BlobStore) -> None:
        store.put_document("a/b.json", b"one")
        store.remove_document("a/b.json")
        store.remove_document("a/b.json")
        with pytest.raises(RecordNotFoundError):
            store.get_document("a/b.json")
        assert store.put_document("a/b.json", b"two")

    def test_a_listing_shows_size_and_age_of_documents_and_blobs(
        self, store: BlobStore, source: Path
    ) -> None:
        digest = store.put_file(source)
        store.put_document("a/b.json", b"{}")
        store.put_document("a-b/c.json", b"{}")
        ((blob,), (document,)) = (list(store.stored(BLOB_ROOT)), list(store.stored("a")))
        assert (blob_of(blob.name), blob.size) == (digest, len(b"some bytes"))
        assert (document.name, document.size) == ("a/b.json", 2)
        assert all(abs(one.age) < timedelta(minutes=5) for one in (blob, document))
        assert list(store.stored("none")) == []

    @pytest.mark.parametrize("name", ["../x", "/x", "", "a/../b"])
    def test_nothing_outside_of_the_store_is_removed_or_listed(
        self, store: BlobStore, name: str
    ) -> None:
        with pytest.raises(InvalidRecordError):
            store.remove_document(name)
        with pytest.raises(InvalidRecordError):
            list(store.stored(name))

    def test_a_store_tells_what_it_lies_on_supports(self, store: BlobStore) -> None:
        features = store.probe()
        assert all(one.supported for one in features if one.required)
        assert any(one.required for one in features)
        assert list(store.list_documents()) == []

    def test_what_is_being_written_is_not_swept(
        self, store: BlobStore, address: str, tmp_path: Path
    ) -> None:
        (tmp_path / "in").write_bytes(bytes(LARGE))
        swept: list[str] = []

        def sweep(_name: str, _done: int, _total: int) -> None:
            swept.extend(store.sweep(timedelta(hours=1)))

        open_store(address, progress=sweep).put_file(tmp_path / "in")
        assert swept == []


def killed_at(end: int) -> Progress:
    """Returns a listener that dies, as the process would, when so many bytes are done."""

    def listen(_name: str, done: int, _total: int) -> None:
        if done >= end:
            raise Killed

    return listen
