"""What is particular to S3: conditions on the wire, faults on the way, and other servers."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config

from registry.blobs.interface import blob_name
from registry.blobs.s3 import S3BlobStore
from registry.blobs.s3_location import S3Location
from registry.blobs.select import open_store
from registry.digests import digest_bytes
from registry.errors import IntegrityError, StoreUnavailableError
from tests.fakes.servers import S3Server
from tests.fakes.wire import answer, answers, on

pytestmark = pytest.mark.usefixtures("s3_credentials")
LARGE = 2 * 16 * 1024 * 1024 + 7
"""Bytes: three parts of an upload."""


@pytest.fixture
def store(seaweedfs_server: S3Server) -> S3BlobStore:
    opened = open_store(seaweedfs_server.url(f"tests/{uuid.uuid4().hex}"))
    assert isinstance(opened, S3BlobStore)
    assert opened._server.create_once  # the probe is over: what is counted is the test's own
    return opened


@pytest.mark.parametrize(
    ("size", "operation"), [(10, "PutObject"), (LARGE, "CompleteMultipartUpload")]
)
def test_blobs_are_created_on_condition(
    store: S3BlobStore, tmp_path: Path, size: int, operation: str
) -> None:
    conditions: list[object] = []

    def spy(request: AWSRequest, **_: object) -> None:
        conditions.append(request.headers.get("If-None-Match"))

    on(store, operation, spy)
    (tmp_path / "in").write_bytes(b"x" * size)
    store.put_file(tmp_path / "in")
    store.put_document("a.json", b"{}", if_absent=False)
    blobs = [one for one in conditions if one is not None]
    assert [str(one) for one in blobs] in (["*"], ["b'*'"])


@pytest.mark.parametrize(
    "fault", [("SlowDown", 503), ("InternalError", 500), ("ConditionalRequestConflict", 409)]
)
@pytest.mark.parametrize(
    ("size", "operation"), [(10, "PutObject"), (LARGE, "CompleteMultipartUpload")]
)
def test_a_passing_fault_is_not_seen(
    store: S3BlobStore, tmp_path: Path, fault: tuple[str, int], size: int, operation: str
) -> None:
    hook, seen = answers(*fault, times=1)
    on(store, operation, hook)
    (tmp_path / "in").write_bytes(b"x" * size)
    digest = store.put_file(tmp_path / "in")
    store.fetch(digest, tmp_path / "out")
    assert len(seen) == 2


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_blob_that_appears_meanwhile_is_taken_as_it_is(
    store: S3BlobStore, tmp_path: Path, size: int
) -> None:
    """Answers what S3 answers when somebody else created the object first, and somebody did."""
    (tmp_path / "in").write_bytes(b"x" * size)
    name = store._root.key + blob_name(digest_bytes(b"x" * size))

    def taken(request: AWSRequest, **_: object) -> AWSResponse:
        client = boto3.client("s3", endpoint_url=store._location.endpoint_url, region_name="x")
        client.put_object(Bucket=store._root.bucket, Key=name, Body=b"x" * size)
        return answer(request, 412, b"<Error><Code>PreconditionFailed</Code></Error>")

    for operation in ("PutObject", "CompleteMultipartUpload"):
        on(store, operation, taken)
    assert store.put_file(tmp_path / "in") == digest_bytes(b"x" * size)


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_blob_that_is_said_to_be_there_and_is_not_is_no_success(
    store: S3BlobStore, tmp_path: Path, size: int
) -> None:
    for operation in ("PutObject", "CompleteMultipartUpload"):
        on(store, operation, answers("PreconditionFailed", 412, times=1)[0])
    (tmp_path / "in").write_bytes(b"x" * size)
    with pytest.raises(StoreUnavailableError, match="and it is not"):
        store.put_file(tmp_path / "in")
    assert store.exists(store.put_file(tmp_path / "in"))


def test_a_lasting_fault_is_said_plainly(seaweedfs_server: S3Server, tmp_path: Path) -> None:
    client = boto3.client(
        "s3", endpoint_url=seaweedfs_server.endpoint, region_name="us-east-1",
        config=Config(retries={"mode": "standard", "total_max_attempts": 2}),
    )  # fmt: skip
    store = S3BlobStore(S3Location(seaweedfs_server.bucket, "faults"), client=client)
    on(store, "PutObject", answers("SlowDown", 503, times=99)[0])
    (tmp_path / "in").write_bytes(uuid.uuid4().bytes)
    with pytest.raises(StoreUnavailableError, match="SlowDown"):
        store.put_file(tmp_path / "in")
    with pytest.raises(StoreUnavailableError, match="SlowDown"):
        store.put_document("a.json", b"{}")


def test_an_aborted_upload_leaves_no_parts(store: S3BlobStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * LARGE)
    with pytest.raises(IntegrityError):
        store.put_file(tmp_path / "in", expected=digest_bytes(b"other"))
    listed = store._root.client.list_multipart_uploads(
        Bucket=store._root.bucket, Prefix=store._root.key
    )
    assert listed.get("Uploads", []) == []


def test_a_blob_of_another_size_is_noticed_before_anything_is_sent(
    store: S3BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"whole")
    name = store._root.key + blob_name(digest_bytes(b"whole"))
    store._root.client.put_object(Bucket=store._root.bucket, Key=name + "x", Body=b"whol")
    source: Any = {"Bucket": store._root.bucket, "Key": name + "x"}
    store._root.client.copy_object(Bucket=store._root.bucket, Key=name, CopySource=source)
    with pytest.raises(IntegrityError, match="another size"):
        store.put_file(tmp_path / "in")


def test_a_truncated_download_does_not_come_out(store: S3BlobStore, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"whole")
    digest = store.put_file(tmp_path / "in")

    def truncate(request: AWSRequest, **_: object) -> AWSResponse:
        return answer(request, 200, b"who")

    on(store, "GetObject", truncate)
    with pytest.raises((IntegrityError, StoreUnavailableError)):
        store.fetch(digest, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_wrong_credentials_are_said_plainly(
    seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = open_store(seaweedfs_server.url("x"))
    with pytest.raises(StoreUnavailableError, match="credentials"):
        stranger.put_document("a.json", b"{}")


def test_a_bucket_that_is_not_there_is_said_plainly(
    seaweedfs_server: S3Server, tmp_path: Path
) -> None:
    store = open_store(f"s3://nobucket/x?endpoint_url={seaweedfs_server.endpoint}")
    (tmp_path / "in").write_bytes(b"x")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.put_file(tmp_path / "in")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.get_document("a.json")


def test_a_server_that_is_not_there_is_said_plainly() -> None:
    client = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:9", region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1),
    )  # fmt: skip
    store = S3BlobStore(S3Location("engines"), client=client)
    with pytest.raises(StoreUnavailableError, match="Could not connect"):
        store.get_document("a.json")
