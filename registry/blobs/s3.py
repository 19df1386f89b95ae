"""The artifact store on S3: AWS, SeaweedFS, Ceph, MinIO and the like; the only user of boto3.

What surprises, and why it is so:

- blobs are created with `If-None-Match: *`, on the single PUT and on the completion of a
  multipart upload alike: of two publishers one creates, the other finds it created;
- a file is hashed while it is sent; if the bytes are not the expected ones, the upload is
  aborted before anything becomes visible;
- S3's own checksums protect the transport only (a multipart SHA-256 is not the file's). They
  are sent where AWS answers, and only when required elsewhere: some servers refuse them;
- transfers use boto3's classic client: the CRT client ignores `endpoint_url` (boto3 #4839).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from registry.blobs.interface import BLOB_ROOT, MAX_DOCUMENT, blob_name, check_bytes, disk_error
from registry.digests import Digest, digest_bytes, digest_file
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.names import check_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MIB = 1024 * 1024
_PART = 16 * _MIB
"""Bytes of a part; 4 threads of 16 MiB were the fastest uploads measured, 64 MiB of memory."""
_MAX_PARTS = 9_000  # S3 allows 10,000
_THREADS = 4
_IO_PIECE = _MIB  # bytes written at once on download; 256 KiB, the default, halves the rate
_PARTS_IN_MEMORY = 6  # those being sent and the next ones; 10 by default
_IO_QUEUE = 32  # pieces that wait for the disk: bounds the memory of a download
_TAKEN = frozenset({"PreconditionFailed", "412"})
_RACING = frozenset({"ConditionalRequestConflict", "409", "NoSuchUpload"})  # run it again
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})


@dataclass(frozen=True)
class S3Location:
    """Where a store lies; credentials come from boto3's own chain, never from here."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    checksums: Literal["supported", "required"] | None = None
    """When transport checksums are sent; by default `supported` on AWS, `required` elsewhere."""


class S3BlobStore:
    """Blobs and documents below one prefix of a bucket."""

    def __init__(self, location: S3Location, *, client: S3Client | None = None) -> None:
        self._bucket = location.bucket
        prefix = location.prefix.strip("/")
        self._prefix = f"{check_path(prefix, where='S3 prefix')}/" if prefix else ""
        self._client = _connect(location) if client is None else client
        # boto3's managed uploads do not pass IfNoneMatch on: it is added on their way out.
        # The stubs say that a hook returns nothing; this one returns new parameters.
        hook: Any = self._create_blobs_only
        for operation in ("CompleteMultipartUpload", "PutObject"):
            self._client.meta.events.register(f"provide-client-params.s3.{operation}", hook)

    @property
    def url(self) -> str:
        """The store's own address, without credentials."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; sends nothing when they are there."""
        with self._translated(str(path)):
            digest = digest_file(path) if expected is None else expected
            size = path.stat().st_size
            if self._is_there(digest, size):
                check_bytes(digest_file(path), digest, where=str(path))
                return digest
            self._create(lambda: self._upload(path, digest, size))
        return digest

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Writes a blob to a file that appears complete and verified, or not at all."""
        name = blob_name(digest)
        partial = destination.with_name(destination.name + ".partial")
        try:
            with self._translated(name):
                self._client.download_file(
                    self._bucket, self._prefix + name, str(partial), Config=_transfer()
                )
                check_bytes(digest_file(partial), digest, where=f"{self.url}/{name}")
                _flush(partial)
                partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)

    def exists(self, digest: Digest) -> bool:
        """Says whether the blob is there."""
        return self._size(blob_name(digest)) is not None

    def put_document(self, name: str, data: bytes, *, if_absent: bool = True) -> bool:
        """Writes a named document and says whether it was not there before with these bytes."""
        key = self._prefix + check_path(name, where="document")
        found = None if if_absent else self._document(name)
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}

        def put() -> object:
            return self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ContentType="application/json", **condition
            )

        with self._translated(name):
            if self._create(put):
                return found != data
        found = self._document(name)
        if found != data:
            raise ConflictError(
                "the document exists with other bytes",
                where=f"{self.url}/{name}",
                actual=None if found is None else digest_bytes(found),
                expected=digest_bytes(data),
            )
        return False

    def get_document(self, name: str) -> bytes:
        """Returns a named document."""
        document = self._document(check_path(name, where="document"))
        if document is None:
            raise _absent(f"{self.url}/{name}")
        return document

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of documents that start with a prefix, in order; never blobs."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with self._translated(prefix):
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        # Not every server lists in byte order: SeaweedFS puts `a/b` before `a-b`.
        names = sorted(key.removeprefix(self._prefix) for key in keys)
        yield from (name for name in names if not name.startswith(f"{BLOB_ROOT}/"))

    def _create_blobs_only(self, params: Mapping[str, Any], **_: object) -> dict[str, Any] | None:
        if params["Key"].startswith(f"{self._prefix}{BLOB_ROOT}/"):
            return {**params, "IfNoneMatch": "*"}
        return None

    def _upload(self, path: Path, digest: Digest, size: int) -> None:
        with path.open("rb") as handle:
            self._client.upload_fileobj(
                cast("BinaryIO", _HashingReader(handle, digest, path)),
                self._bucket,
                self._prefix + blob_name(digest),
                Config=_transfer(size),
            )

    def _is_there(self, digest: Digest, size: int) -> bool:
        found = self._size(blob_name(digest))
        if found not in (None, size):
            raise IntegrityError(
                "a blob in the store has another size than the bytes it is named after",
                where=f"{self.url}/{blob_name(digest)}",
                actual=f"{found} bytes",
                expected=f"{size} bytes",
                remedy="remove that object; the next publish writes it anew",
            )
        return found is not None

    def _size(self, name: str) -> int | None:
        try:
            with self._translated(name):
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except RecordNotFoundError:
            return None
        return head["ContentLength"]

    def _document(self, name: str) -> bytes | None:
        try:
            with self._translated(name):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
                return answer["Body"].read(MAX_DOCUMENT)
        except RecordNotFoundError:
            return None

    @staticmethod
    def _create(action: Callable[[], object]) -> bool:
        """Creates an object; False when the name is taken. A race is run again."""
        try:
            for attempt in Retrying(
                retry=retry_if_exception(lambda error: _code(error) in _RACING),
                wait=wait_random_exponential(multiplier=0.1, max=2),
                stop=stop_after_attempt(6),
                reraise=True,
            ):
                with attempt:
                    action()
        except ClientError as error:
            if _code(error) in _TAKEN:
                return False
            raise
        return True

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        where = f"{self.url}/{name}"
        try:
            yield
        except ClientError as error:
            if _code(error) in _ABSENT:
                raise _absent(where) from None
            raise _unavailable(error, where) from error
        except (BotoCoreError, Boto3Error) as error:
            raise _unavailable(error, where) from error
        except OSError as error:  # the disk of this host, not the store
            raise disk_error(error, Path(error.filename or ".")) from error


class _HashingReader:
    """Reads a file for an upload and fails at its end if the bytes are not the expected ones.

    It cannot seek, so every byte is read once, in order, and is the byte that is sent.
    """

    def __init__(self, handle: BinaryIO, expected: Digest, path: Path) -> None:
        self._handle = handle
        self._expected = expected
        self._path = path
        self._hasher = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._handle.read(size)
        self._hasher.update(piece)
        if not piece:
            actual = Digest("sha256", self._hasher.hexdigest())
            check_bytes(actual, self._expected, where=str(self._path))
        return piece


def _connect(location: S3Location) -> S3Client:
    elsewhere = location.endpoint_url is not None
    when: Literal["when_required", "when_supported"] = (
        "when_required"
        if (location.checksums or ("required" if elsewhere else "supported")) == "required"
        else "when_supported"
    )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 6},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=2 * _THREADS,
        signature_version="s3v4",
        request_checksum_calculation=when,
        s3={"addressing_style": "path" if elsewhere else "auto"},
    )
    try:
        # A session of its own: boto3's default one is shared by threads and keeps the first
        # credentials it saw.
        return boto3.Session().client(
            "s3",
            endpoint_url=location.endpoint_url,
            region_name=location.region or ("us-east-1" if elsewhere else None),
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise InvalidRecordError(f"not an S3 address: {error}", actual=location) from error


def _transfer(size: int = 0) -> TransferConfig:
    part = max(_PART, -(-size // _MAX_PARTS))
    config = TransferConfig(
        multipart_threshold=part,
        multipart_chunksize=part,
        max_concurrency=_THREADS,
        io_chunksize=_IO_PIECE,
        max_io_queue=_IO_QUEUE,
        preferred_transfer_client="classic",
    )
    config.max_in_memory_upload_chunks = _PARTS_IN_MEMORY
    return config


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _code(error: BaseException) -> str | None:
    return error.response["Error"].get("Code") if isinstance(error, ClientError) else None


def _absent(where: str) -> RecordNotFoundError:
    return RecordNotFoundError("not in the artifact store", where=where)


def _unavailable(error: Exception, where: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"S3 does not do what was asked: {error}",
        where=where,
        remedy="check the endpoint, the bucket and its policy, and the credentials "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
    )
