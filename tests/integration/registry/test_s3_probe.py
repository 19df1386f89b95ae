"""What a server supports is tried, not believed; what it must support and does not is refused.

A server that ignores a condition is played by SeaweedFS and a client that leaves it out: so rclone
and JuiceFS behave, which answer 200 to all of sixteen racers.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from registry.blobs import s3_probe
from registry.blobs.s3 import S3BlobStore
from registry.blobs.select import open_store
from registry.errors import StoreUnavailableError
from tests.fakes.servers import S3Server
from tests.fakes.wire import answers, on, watch

pytestmark = pytest.mark.usefixtures("s3_credentials", "forgetful")
LARGE = 16 * 1024 * 1024 + 1
CREATE, COMPLETE, SWAP, CHECKSUMS, RANGES, LISTS, ORDER = s3_probe._FEATURES


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests found out about the servers is not known here."""
    monkeypatch.setattr(s3_probe, "_known", {})


@pytest.fixture
def address(seaweedfs_server: S3Server) -> str:
    return seaweedfs_server.url(f"tests/{uuid.uuid4().hex}")


@pytest.fixture
def store(address: str) -> S3BlobStore:
    return opened(address)


def opened(address: str) -> S3BlobStore:
    store = open_store(address)
    assert isinstance(store, S3BlobStore)
    return store


def ignoring(store: S3BlobStore, operation: str, header: str) -> S3BlobStore:
    """Lets the server never see a header."""

    def forget(params: dict[str, Any], **_: object) -> None:
        params["headers"].pop(header, None)

    anything: Any = forget
    store._root.client.meta.events.register(f"before-call.s3.{operation}", anything)
    return store


def missing(store: S3BlobStore) -> set[str]:
    return {one.name for one in store.probe() if not one.supported}


def name_of(capability: str) -> str:
    return s3_probe._FEATURES[capability][0]


def test_seaweedfs_does_all_but_list_in_order(store: S3BlobStore) -> None:
    assert missing(store) == {name_of(ORDER)}


def test_moto_does_all_but_verify_checksums(moto_server: S3Server) -> None:
    assert missing(opened(moto_server.url(uuid.uuid4().hex))) == {name_of(CHECKSUMS)}


@pytest.mark.parametrize(
    ("operation", "header", "capability"),
    [
        ("PutObject", "If-None-Match", CREATE),
        ("CompleteMultipartUpload", "If-None-Match", COMPLETE),
        ("PutObject", "If-Match", SWAP),
        ("PutObject", "x-amz-checksum-crc32", CHECKSUMS),
    ],
)
def test_a_server_that_ignores_a_header_is_found_out(
    store: S3BlobStore, operation: str, header: str, capability: str
) -> None:
    assert missing(ignoring(store, operation, header)) == {name_of(capability), name_of(ORDER)}


def test_a_server_that_always_refuses_to_swap_is_found_out(store: S3BlobStore) -> None:
    def refuse(params: dict[str, Any], **_: object) -> None:
        if "If-Match" in params["headers"]:
            params["headers"]["If-Match"] = '"0123456789abcdef0123456789abcdef"'

    anything: Any = refuse
    store._root.client.meta.events.register("before-call.s3.PutObject", anything)
    assert missing(store) == {name_of(SWAP), name_of(ORDER)}


@pytest.mark.parametrize("code", [("AccessDenied", 403), ("NotImplemented", 501)])
def test_what_may_not_be_listed_is_not_gone_on_with(
    store: S3BlobStore, tmp_path: Path, code: tuple[str, int]
) -> None:
    on(store, "ListMultipartUploads", answers(*code, times=99)[0])
    (tmp_path / "in").write_bytes(bytes(LARGE))
    store.put_file(tmp_path / "in")
    assert missing(store) == {name_of(LISTS), name_of(ORDER)}


def test_nothing_is_published_where_creation_may_overwrite(address: str, tmp_path: Path) -> None:
    opened(address).put_document("before.json", b"{}")
    s3_probe._known.clear()
    store = ignoring(opened(address), "PutObject", "If-None-Match")
    (tmp_path / "in").write_bytes(b"x")
    for publish in (
        lambda: store.put_file(tmp_path / "in"),
        lambda: store.put_document("a.json", b"{}"),
        lambda: store.put_document("a.json", b"{}", if_absent=False),
    ):
        with pytest.raises(StoreUnavailableError, match="no If-None-Match on PUT"):
            publish()
    assert list(store.list_documents()) == ["before.json"]
    assert store.get_document("before.json") == b"{}"


def test_no_document_moves_where_another_may_be_overwritten(store: S3BlobStore) -> None:
    ignoring(store, "PutObject", "If-Match")
    store.put_document("a.json", b"one")
    version = store.read_document("a.json").version
    with pytest.raises(StoreUnavailableError, match="If-Match on PUT"):
        store.put_document("a.json", b"two", if_match=version)
    assert store.get_document("a.json") == b"one"


def test_a_large_blob_is_stored_where_completion_knows_no_condition(
    store: S3BlobStore, tmp_path: Path
) -> None:
    ignoring(store, "CompleteMultipartUpload", "If-None-Match")
    (tmp_path / "in").write_bytes(bytes(LARGE))
    store.fetch(store.put_file(tmp_path / "in"), tmp_path / "out")


def test_a_server_is_tried_once_per_process(store: S3BlobStore, address: str) -> None:
    store.put_document("a.json", b"{}")
    again = opened(address)
    requests = watch(again, "*")
    again.put_document("b.json", b"{}")
    assert len(requests) == 2  # it looks, and writes


def test_a_reader_is_never_made_to_write(address: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x")
    digest = opened(address).put_file(tmp_path / "in")
    s3_probe._known.clear()
    reader = opened(address)
    writes = watch(reader, "PutObject")
    reader.fetch(digest, tmp_path / "out")
    list(reader.list_documents())
    assert writes == []


@pytest.mark.parametrize(("size", "operation"), [(1, "PutObject"), (LARGE, "UploadPart")])
def test_checksums_are_sent_where_they_are_verified(
    store: S3BlobStore, tmp_path: Path, size: int, operation: str
) -> None:
    assert store._server.checksums
    assert carry_checksums(store, operation, tmp_path, size) == {True}


@pytest.mark.parametrize(("option", "expected"), [("supported", True), ("required", False)])
def test_the_address_decides_about_checksums(
    address: str, tmp_path: Path, *, option: str, expected: bool
) -> None:
    store = opened(f"{address}&checksums={option}")
    assert store._server.checksums
    assert carry_checksums(store, "PutObject", tmp_path, 1) == {expected}


def carry_checksums(store: S3BlobStore, operation: str, directory: Path, size: int) -> set[bool]:
    """Stores a file; says whether the requests that carried it carried a checksum."""
    sent = watch(store, operation)
    (directory / "in").write_bytes(bytes(size))
    store.put_file(directory / "in")
    return {"x-amz-checksum-crc32" in one.headers for one in sent}


def test_checksums_are_not_sent_where_they_are_ignored(
    moto_server: S3Server, tmp_path: Path
) -> None:
    store = opened(moto_server.url(uuid.uuid4().hex))
    assert not store._server.checksums
    assert carry_checksums(store, "PutObject", tmp_path, 1) == {False}
