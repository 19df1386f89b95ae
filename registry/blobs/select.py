"""Opens the artifact store an address names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from registry.blobs.interface import BlobStore
from registry.blobs.local import LocalBlobStore
from registry.errors import InvalidRecordError

_OPTIONS = frozenset({"endpoint_url", "region", "checksums"})
_CHECKSUMS = ("supported", "required")


def open_store(url: str) -> BlobStore:
    """Opens `file:///directory` or `s3://bucket/prefix?endpoint_url=…&region=…&checksums=…`.

    Raises InvalidRecordError for any other address; does not touch the network.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return _open_s3(url)
    raise InvalidRecordError(
        "not the address of an artifact store",
        actual=url,
        expected="file:///directory or s3://bucket/prefix?endpoint_url=…",
    )


def _open_s3(url: str) -> BlobStore:
    from registry.blobs.s3 import S3BlobStore, S3Location  # noqa: PLC0415 - boto3 takes 0.2 s

    parts = urlsplit(url)
    if parts.username or parts.password or "@" in parts.netloc:
        raise InvalidRecordError(
            "credentials do not belong into the address",
            where=f"s3://{parts.hostname}",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile",
        )
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    checksums = options.get("checksums")
    if set(options) - _OPTIONS or checksums not in (None, *_CHECKSUMS):
        raise InvalidRecordError(
            "an unknown option in the address",
            where=url,
            actual=options,
            expected=f"{', '.join(sorted(_OPTIONS))}; checksums is one of {_CHECKSUMS}",
        )
    return S3BlobStore(
        S3Location(
            bucket=parts.netloc,
            prefix=unquote(parts.path).strip("/"),
            endpoint_url=options.get("endpoint_url"),
            region=options.get("region"),
            checksums=checksums,  # type: ignore[arg-type]  # narrowed by the check above
        )
    )
