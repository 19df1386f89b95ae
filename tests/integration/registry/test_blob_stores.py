"""One contract for every artifact store; here a local directory and SeaweedFS over S3."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.blobs.interface import BlobStore, blob_name
from registry.blobs.s3 import S3BlobStore
from registry.blobs.select import open_store
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
)

PART = 16 * 1024 * 1024
"""Bytes from which S3 uploads are split; the large file has two full parts and a bit."""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "local":
        return open_store((tmp_path / "store").as_uri())
    request.getfixturevalue("s3_credentials")
    server = request.getfixturevalue("seaweedfs_server")
    return open_store(server.url(f"tests/{uuid.uuid4().hex}"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"some bytes")
    return path


class TestBlobStore:
    @pytest.mark.parametrize("size", [0, 1, PART - 1, PART, 2 * PART + 7])
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

    @pytest.mark.parametrize("size", [10, 2 * PART + 7])
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
        _overwrite(store, blob_name(digest), b"some byteS")
        with pytest.raises(IntegrityError):
            store.fetch(digest, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

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


def _overwrite(store: BlobStore, name: str, data: bytes) -> None:
    """Does what an intruder or a failing disk does."""
    if isinstance(store, S3BlobStore):
        store._root.client.put_object(Bucket=store._root.bucket, Key=f"{store._root.key}{name}x", Body=data)
        store._root.client.delete_object(Bucket=store._root.bucket, Key=f"{store._root.key}{name}")
        store._root.client.copy_object(
            Bucket=store._root.bucket,
            Key=f"{store._root.key}{name}",
            CopySource={"Bucket": store._root.bucket, "Key": f"{store._root.key}{name}x"},
        )
        return
    path = Path(store.url.removeprefix("file://")) / name
    path.chmod(0o644)
    path.write_bytes(data)
