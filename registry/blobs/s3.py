"""The artifact store on S3: AWS, SeaweedFS, Ceph, MinIO and the like.

What surprises, and why it is so:

- blobs are created with `If-None-Match: *`, on the single PUT and on the completion of a
  multipart upload alike: of two publishers one creates, the other finds it created;
- a file is hashed while it is sent; if the bytes are not the expected ones, the upload is
  aborted before anything becomes visible;
- S3's own checksums protect the transport only (a multipart SHA-256 is not the file's). They
  are sent where AWS answers, and only when required elsewhere: some servers refuse them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from botocore.exceptions import ClientError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from registry.blobs.interface import BLOB_ROOT, MAX_DOCUMENT, blob_name, check_bytes
from registry.blobs.s3_client import (
    absent,
    connect,
    download,
    error_code,
    transfer_config,
    translated,
)
from registry.blobs.s3_location import S3Location
from registry.digests import Digest, digest_bytes, digest_file
from registry.errors import ConflictError, IntegrityError, RecordNotFoundError
from registry.names import check_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TAKEN = frozenset({"PreconditionFailed", "412"})
_RACING = frozenset({"ConditionalRequestConflict", "409", "NoSuchUpload"})  # run it again


class S3BlobStore:
    """Blobs and documents below one prefix of a bucket."""

    def __init__(self, location: S3Location, *, client: S3Client | None = None) -> None:
        self._bucket = location.bucket
        self._prefix = location.root
        self._url = location.url
        self._client = connect(location) if client is None else client
        # boto3's managed uploads do not pass IfNoneMatch on: it is added on their way out.
        # The stubs say that a hook returns nothing; this one returns new parameters.
        hook: Any = self._create_blobs_only
        for operation in ("CompleteMultipartUpload", "PutObject"):
            self._client.meta.events.register(f"provide-client-params.s3.{operation}", hook)

    @property
    def url(self) -> str:
        """The store's own address, without credentials."""
        return self._url

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
                download(self._client, partial, bucket=self._bucket, key=self._prefix + name)
                check_bytes(digest_file(partial), digest, where=f"{self.url}/{name}")
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
            raise absent(f"{self.url}/{name}")
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
                Config=transfer_config(size),
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
                retry=retry_if_exception(lambda error: error_code(error) in _RACING),
                wait=wait_random_exponential(multiplier=0.1, max=2),
                stop=stop_after_attempt(6),
                reraise=True,
            ):
                with attempt:
                    action()
        except ClientError as error:
            if error_code(error) in _TAKEN:
                return False
            raise
        return True

    def _translated(self, name: str) -> AbstractContextManager[None]:
        return translated(f"{self.url}/{name}")


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
