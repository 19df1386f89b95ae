"""Sends a file to S3 in parts, several at a time, and goes on from the parts that are there.

Rules:

- the file is read once; every byte is hashed as it is sent, and nothing becomes visible unless
  the file has the digest it was promised to have;
- an upload of the same object that was interrupted, by whomever, is gone on with: a part whose
  size and MD5 are those the server lists is not sent again. A server whose ETags are no MD5
  gets every part anew;
- two who send the same bytes at once may share an upload: each names the parts by their ETags on
  completion, so a part that somebody else spoiled is refused and the whole is sent anew;
- a network that fails leaves the parts for the next run, wrong bytes leave nothing.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from registry.blobs.in_order import in_order
from registry.blobs.interface import PART, Progress, check_bytes
from registry.blobs.s3_client import TAKEN, THREADS, S3Object, error_code
from registry.blobs.s3_unfinished import finished_parts, unfinished_uploads
from registry.digests import Digest
from registry.errors import IntegrityError, InvalidRecordError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef

_MAX_PARTS = 10_000  # of one object, says S3
_MAX_PART = 4 * PART  # two of them still fit into the memory that is promised
_MEMORY = 6 * PART
"""Bytes of parts that are in memory at a time, as long as they are of the usual size."""

_SPOILED = frozenset({"InvalidPart", "InvalidPartOrder", "InvalidRequest", "EntityTooSmall"})
"""What the server says of an upload that somebody else began otherwise, or wrote other parts to."""


@dataclass(frozen=True)
class Cut:
    """How a file is cut into parts, and how many of them are in memory."""

    part: int
    """Bytes."""
    ahead: int

    @classmethod
    def of(cls, size: int) -> Cut:
        """Returns how a file of that many bytes is cut.

        Above 156 GiB parts grow, since S3 counts them, and fewer are in memory. Raises
        InvalidRecordError above 625 GiB.
        """
        part = max(PART, -(-size // _MAX_PARTS))
        if part > _MAX_PART:
            raise InvalidRecordError(
                "the file is too large for one object",
                actual=f"{size} bytes",
                expected=f"at most {_MAX_PART * _MAX_PARTS}",
                remedy="split it, as checkpoints are split into shards",
            )
        return cls(part, max(2, _MEMORY // part))


@dataclass(frozen=True)
class Sender:
    """How files become objects, as the server at hand supports it."""

    checksums: bool
    """Whether parts carry a CRC-32 that the server verifies."""
    create_once: bool
    """Whether the server completes an upload on condition that the object is not there."""
    resume: bool
    """Whether the server lists what is unfinished."""
    progress: Progress | None = None

    def send(self, path: Path, digest: Digest, target: S3Object) -> None:
        """Creates an object from a file that has the given digest, in one attempt.

        Raises IntegrityError when the file has another one, and the server's ClientError.
        """
        left = self._unfinished(target) if self.resume else None
        if left is not None:
            try:
                return self._transfer(left, path, digest)
            except ClientError as error:
                if error_code(error) not in _SPOILED:
                    raise
                left.abort()
        return self._transfer(self.begin(target), path, digest)

    def begin(self, target: S3Object) -> Upload:
        """Begins an upload that holds nothing yet."""
        algorithm: dict[str, Any] = {"ChecksumAlgorithm": "CRC32"} if self.checksums else {}
        begun = target.client.create_multipart_upload(**target.at, **algorithm)
        return Upload(target, begun["UploadId"], self.checksums)

    def _transfer(self, upload: Upload, path: Path, digest: Digest) -> None:
        size = path.stat().st_size
        cut, hasher = Cut.of(size), hashlib.sha256()
        sent: list[CompletedPartTypeDef] = []

        def parts() -> Iterator[tuple[int, bytes]]:
            with path.open("rb") as handle:
                for number in count(1):
                    data = handle.read(cut.part)
                    if not data:
                        return
                    hasher.update(data)
                    yield number, data

        try:
            for part in in_order(upload.send, parts(), threads=THREADS, ahead=cut.ahead):
                sent.append(part)
                if self.progress is not None:
                    self.progress(path.name, min(len(sent) * cut.part, size), size)
            check_bytes(Digest("sha256", hasher.hexdigest()), digest, where=str(path))
            upload.complete(sent, create_once=self.create_once)
        except IntegrityError:
            upload.abort()
            raise
        except ClientError as error:
            if error_code(error) in TAKEN:
                upload.abort()
            raise

    def _unfinished(self, target: S3Object) -> Upload | None:
        """Returns the latest upload of this very object that was begun and not completed."""
        found = [one for one in unfinished_uploads(target) if one.key == target.key]
        if not found:
            return None
        latest = max(found, key=lambda one: one.begun)
        return Upload(target, latest.id, self.checksums, finished_parts(target, latest.id))


@dataclass(frozen=True)
class Upload:
    """One multipart upload, begun now or found."""

    target: S3Object
    id: str
    checksums: bool
    finished: Mapping[int, PartTypeDef] = field(default_factory=dict)

    def send(self, numbered: tuple[int, bytes]) -> CompletedPartTypeDef:
        """Sends a part unless it is there; returns what names it on completion."""
        number, data = numbered
        checksum = crc32(data) if self.checksums else {}
        etag = self._etag_if_there(number, data)
        if etag is None:
            etag = self.target.client.upload_part(
                **self.target.at, UploadId=self.id,
                PartNumber=number, Body=data, **checksum,
            )["ETag"]  # fmt: skip
        return {"PartNumber": number, "ETag": etag, **checksum}  # type: ignore[typeddict-item]

    def complete(self, parts: list[CompletedPartTypeDef], *, create_once: bool) -> None:
        """Makes the object visible."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if create_once else {}
        self.target.client.complete_multipart_upload(
            **self.target.at, UploadId=self.id,
            MultipartUpload={"Parts": parts}, **condition,
        )  # fmt: skip

    def abort(self) -> None:
        """Gives the upload up; what cannot be removed now is swept another day."""
        with suppress(BotoCoreError, ClientError):
            self.target.client.abort_multipart_upload(**self.target.at, UploadId=self.id)

    def _etag_if_there(self, number: int, data: bytes) -> str | None:
        part = self.finished.get(number)
        if part is None or part["Size"] != len(data):
            return None
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return part["ETag"] if part["ETag"].strip('"') == digest else None


def crc32(data: bytes) -> dict[str, Any]:
    """Returns the parameters that let a server verify what it receives."""
    return {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}
