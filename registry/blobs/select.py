"""Opens the artifact store an address names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.blobs.interface import BlobStore, Progress
from registry.blobs.local import LocalBlobStore
from registry.blobs.s3_location import S3Location
from registry.errors import InvalidRecordError


def open_store(url: str, *, progress: Progress | None = None) -> BlobStore:
    """Opens `file:///directory` or `s3://bucket/prefix?endpoint_url=…&region=…&checksums=…`.

    Progress, where given, hears of every file on its way in or out. Raises InvalidRecordError
    for any other address; does not touch the network.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalBlobStore(Path(unquote(parts.path)), progress=progress)
    if parts.scheme == "s3" and parts.netloc:
        return _open_s3(url, progress)
    raise InvalidRecordError(
        "not the address of an artifact store",
        actual=url,
        expected="file:///directory or s3://bucket/prefix?endpoint_url=…",
    )


def _open_s3(url: str, progress: Progress | None) -> BlobStore:
    from registry.blobs.s3 import S3BlobStore  # noqa: PLC0415 - boto3 takes 0.2 s

    return S3BlobStore(S3Location.from_url(url), progress=progress)
