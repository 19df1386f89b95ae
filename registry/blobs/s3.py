"""The artifact store on S3: AWS, SeaweedFS, Ceph, MinIO and the like.

What surprises, and why it is so:

- before the first write the server is tried (`s3_probe`): one that ignores `If-None-Match`
  would let two publishers overwrite each other without a word, and is refused;
- blobs are created with `If-None-Match: *`, on the single PUT and on the completion of a
  multipart upload alike: of two publishers one creates, the other finds it created;
- a file is hashed while it is sent; if the bytes are not the expected ones, the upload is
  aborted before anything becomes visible;
- S3's own checksums protect the transport only (a multipart SHA-256 is not the file's). They
  are sent where the server was seen to verify them, unless the address says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from registry.blobs import s3_unfinished
from registry.blobs.interface import (
    BLOB_ROOT,
    MAX_DOCUMENT,
    PART,
    PROBE_ROOT,
    Document,
    Feature,
    Progress,
    Stored,
    blob_name,
    check_bytes,
    check_whole,
    document_conflict,
    require,
)
from registry.blobs.partial import Source, assemble
from registry.blobs.s3_client import (
    TAKEN,
    S3Object,
    absent,
    again,
    connect,
    error_code,
    is_absent,
    translated,
)
from registry.blobs.s3_download import read_again, write_ranges
from registry.blobs.s3_location import S3Location
from registry.blobs.s3_probe import Capabilities, capabilities, probe
from registry.blobs.s3_upload import Sender, crc32
from registry.digests import Digest, digest_bytes, digest_file
from registry.errors import IntegrityError, RecordNotFoundError, StoreUnavailableError
from registry.names import check_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ABANDONED = timedelta(days=7)
"""How long an interrupted upload may be gone on with before another one sweeps it."""
_PIECE = 1024 * 1024  # bytes
_AWS = (".amazonaws.com", ".amazonaws.com.cn")


class S3BlobStore:
    """Blobs and documents below one prefix of a bucket."""

    def __init__(
        self,
        location: S3Location,
        *,
        client: S3Client | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._location = location
        self._root = S3Object(client or connect(location), location.bucket, location.root)
        self._progress = progress
        self._swept = False

    @property
    def url(self) -> str:
        """The store's own address, without credentials."""
        return self._location.url

    @property
    def origin(self) -> str:
        """Names the prefix with its server; without it on AWS, which has a bucket's name once."""
        endpoint = self._root.client.meta.endpoint_url
        if (urlsplit(endpoint).hostname or "").endswith(_AWS):
            return self.url
        return f"{self.url}?endpoint_url={endpoint.rstrip('/')}"

    def put_file(self, path: Path, *, expected: Digest | None = None) -> Digest:
        """Stores a file's bytes and returns their digest; sends nothing when they are there.

        Goes on with an upload of the same bytes that was interrupted.
        """
        with self._translated(str(path)):
            digest = digest_file(path) if expected is None else expected
            for attempt in again():
                with attempt:
                    if self._is_there(digest, path.stat().st_size):
                        check_bytes(digest_file(path), digest, where=str(path))
                    else:
                        self._send(path, digest)
        return digest

    def replace_file(self, path: Path, digest: Digest) -> None:
        """Puts good bytes in the place of a damaged blob, which is there until they are."""
        with self._translated(str(path)):
            for attempt in again():
                with attempt:
                    self._send(path, digest, over=True)

    def fetch(self, digest: Digest, destination: Path) -> None:
        """Writes a blob to a file that appears complete and verified, or not at all."""
        blob = self._object(blob_name(digest))
        size = self._size(blob)
        if size is None:
            raise absent(blob.url)
        source = Source(digest, size, blob.url, partial(write_ranges, blob, size))
        with self._translated(str(destination)):
            assemble(source, destination, self._progress)

    def exists(self, digest: Digest) -> bool:
        """Says whether the blob is there."""
        return self._size(self._object(blob_name(digest))) is not None

    def is_damaged(self, digest: Digest) -> bool:
        """Reads a blob that is there and says whether its bytes are not those of its name."""
        blob = self._object(blob_name(digest))
        with translated(blob.url):
            return read_again()(_hash, blob) != digest.value

    def remove(self, digest: Digest) -> None:
        """Removes a blob; nothing if it is not there."""
        blob = self._object(blob_name(digest))
        with translated(blob.url):
            blob.client.delete_object(**blob.at)

    def put_document(
        self, name: str, data: bytes, *, if_absent: bool = True, if_match: str | None = None
    ) -> bool:
        """Writes a named document and says whether it was not there before with these bytes."""
        target = self._object(check_path(name, where="document"))
        with translated(target.url):
            if if_match is not None:
                written = self._swap(target, data, if_match)
            else:
                written = self._write(target, data, if_absent=if_absent)
        if written:
            return True
        found = self._document(target)
        if found is None or found.data != data:
            raise document_conflict(
                target.url,
                None if found is None else found.data,
                expected=digest_bytes(data) if if_match is None else f"version {if_match}",
            )
        return False

    def get_document(self, name: str) -> bytes:
        """Returns a named document's bytes."""
        return self.read_document(name).data

    def read_document(self, name: str) -> Document:
        """Returns a named document with its version, which is its ETag."""
        target = self._object(check_path(name, where="document"))
        document = self._document(target)
        if document is None:
            raise absent(target.url)
        return document

    def list_documents(self, prefix: str = "") -> Iterator[str]:
        """Yields the names of documents that start with a prefix, in order; never blobs."""
        pages = self._root.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._root.bucket, Prefix=self._root.key + prefix
        )
        with self._translated(prefix):
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        # Not every server lists in byte order: SeaweedFS puts `a/b` before `a-b`.
        names = sorted(key.removeprefix(self._root.key) for key in keys)
        hidden = (f"{BLOB_ROOT}/", f"{PROBE_ROOT}/")
        yield from (name for name in names if not name.startswith(hidden))

    def remove_document(self, name: str) -> None:
        """Removes a named document; nothing if it is not there."""
        target = self._object(check_path(name, where="document"))
        with translated(target.url):
            target.client.delete_object(**target.at)

    def stored(self, prefix: str) -> Iterator[Stored]:
        """Yields what lies below a folder, with its age by the server's clock."""
        pages = self._root.client.get_paginator("list_objects_v2").paginate(
            Bucket=self._root.bucket, Prefix=f"{self._root.key}{check_path(prefix)}/"
        )
        with self._translated(prefix):
            for page in pages:
                now = s3_unfinished.server_time(page)
                for entry in page.get("Contents", []):
                    name = entry["Key"].removeprefix(self._root.key)
                    yield Stored(name, entry["Size"], now - entry["LastModified"])

    def probe(self) -> tuple[Feature, ...]:
        """Finds out, by trying, what the server supports."""
        with self._translated(PROBE_ROOT):
            return probe(self._root).features()

    def sweep(self, older_than: timedelta, *, dry_run: bool = False) -> list[str]:
        """Aborts uploads of blobs below our prefix that got no part for that long."""
        prefix = f"{self._root.key}{BLOB_ROOT}/"
        with self._translated(BLOB_ROOT):
            keys = s3_unfinished.sweep(
                replace(self._root, key=prefix), older_than=older_than, dry_run=dry_run
            )
        return [key.removeprefix(self._root.key) for key in keys]

    @cached_property
    def _server(self) -> Capabilities:
        """What the server supports; raises StoreUnavailableError when it is too little."""
        found = capabilities(self._root)
        require(found.features(), self.url)
        return found

    @property
    def _checksums(self) -> bool:
        supported, asked = self._server.checksums, self._location.checksums
        return supported if asked is None else asked == "supported"

    def _send(self, path: Path, digest: Digest, *, over: bool = False) -> None:
        """Creates a blob from a file; finding it created meanwhile is as good.

        With `over`, writes over what is there.
        """
        size, target = path.stat().st_size, self._object(blob_name(digest))
        if size >= PART:
            created = self._send_in_parts(path, digest, target, over=over)
        else:
            data = path.read_bytes()
            check_bytes(digest_bytes(data), digest, where=str(path))
            condition = {} if over else {"IfNoneMatch": "*"}
            created = self._put(target, data, "application/octet-stream", **condition)
            if self._progress is not None:
                self._progress(path.name, size, size)
        if not created and not self._is_there(digest, size):
            raise StoreUnavailableError(
                "the server refuses to create a blob because it is there, and it is not",
                where=target.url,
                remedy="run again; if it lasts, try the server with `enginekeeper store probe`",
                transient=True,
            )

    def _send_in_parts(self, path: Path, digest: Digest, target: S3Object, *, over: bool) -> bool:
        """Sends a large file; False when somebody else created the blob meanwhile."""
        server = self._server
        if server.resume and not self._swept:
            self._swept = True
            self.sweep(ABANDONED)
        once = server.complete_once and not over
        sender = Sender(self._checksums, once, server.resume, self._progress)
        try:
            sender.send(path, digest, target)
        except ClientError as error:
            if error_code(error) not in TAKEN:
                raise
            return False
        return True

    def _write(self, target: S3Object, data: bytes, *, if_absent: bool) -> bool:
        """Writes a document; False when it was there with these bytes, or if that matters at all.

        Looks first: to find that nothing is to be done, nothing needs to be sent.
        """
        found = self._document(target)
        if found is not None and (if_absent or found.data == data):
            return False
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        return self._put(target, data, "application/json", **condition)

    def _swap(self, target: S3Object, data: bytes, version: str) -> bool:
        if not self._server.swap:
            raise StoreUnavailableError(
                "documents that move cannot be kept here safely",
                where=target.url,
                actual="the server does not support If-Match on PUT",
                expected="a server on which of two who move a document at once one wins",
                remedy="use another server (`enginekeeper store probe` shows what one supports)",
            )
        return self._put(target, data, "application/json", IfMatch=version)

    def _put(self, target: S3Object, data: bytes, kind: str, **condition: str) -> bool:
        """Writes an object whole; False when the condition does not hold."""
        extra: dict[str, Any] = {**condition, **(crc32(data) if self._checksums else {})}
        try:
            for attempt in again():
                with attempt:
                    target.client.put_object(**target.at, Body=data, ContentType=kind, **extra)
        except ClientError as error:
            if error_code(error) in TAKEN or is_absent(error):
                return False
            raise
        return True

    def _is_there(self, digest: Digest, size: int) -> bool:
        blob = self._object(blob_name(digest))
        found = self._size(blob)
        if found not in (None, size):
            raise IntegrityError(
                "a blob in the store has another size than the bytes it is named after",
                where=blob.url,
                actual=f"{found} bytes",
                expected=f"{size} bytes",
                remedy="publish the artifact again, or put it back from a good copy: "
                "enginekeeper engine heal ENGINE --from DIRECTORY",
            )
        return found is not None

    def _size(self, target: S3Object) -> int | None:
        try:
            with translated(target.url):
                head = target.client.head_object(**target.at)
        except RecordNotFoundError:
            return None
        return head["ContentLength"]

    def _document(self, target: S3Object) -> Document | None:
        try:
            with translated(target.url):
                return read_again()(_read, target)
        except RecordNotFoundError:
            return None

    def _object(self, name: str) -> S3Object:
        return replace(self._root, key=self._root.key + name)

    def _translated(self, name: str) -> AbstractContextManager[None]:
        return translated(f"{self.url}/{name}")


def _read(target: S3Object) -> Document:
    answer = target.client.get_object(**target.at)
    data = check_whole(answer["Body"].read(MAX_DOCUMENT + 1), where=target.url)
    return Document(data, answer["ETag"])


def _hash(blob: S3Object) -> str:
    hasher = hashlib.sha256()
    for piece in blob.client.get_object(**blob.at)["Body"].iter_chunks(_PIECE):
        hasher.update(piece)
    return hasher.hexdigest()
