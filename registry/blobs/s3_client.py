"""How S3 is talked to: the client's settings, downloads, and what its errors mean here.

Transfers use boto3's classic client: the CRT client ignores `endpoint_url` (boto3 #4839).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from registry.blobs.interface import disk_error
from registry.blobs.s3_location import S3Location
from registry.errors import InvalidRecordError, RecordNotFoundError, StoreUnavailableError

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
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # boto3 itself connects there


def connect(location: S3Location) -> S3Client:
    """Returns a client for a location; does not touch the network."""
    elsewhere = location.endpoint_url is not None or any(map(os.environ.get, _ENDPOINTS))
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
    region = location.region or (None if location.endpoint_url is None else "us-east-1")
    try:
        # A session of its own: boto3's default one is shared by threads and keeps the first
        # credentials it saw.
        return boto3.Session().client(
            "s3", endpoint_url=location.endpoint_url, region_name=region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise InvalidRecordError(f"not an S3 address: {error}", actual=location) from error


def transfer_config(size: int = 0) -> TransferConfig:
    """Returns how a file is moved; `size` matters for uploads, whose parts are counted."""
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


def download(client: S3Client, path: Path, *, bucket: str, key: str) -> None:
    """Writes an object to a file, in pieces, and the file to the disk."""
    client.download_file(bucket, key, str(path), Config=transfer_config())
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns what boto3 and the disk raise in the block into the registry's errors."""
    try:
        yield
    except ClientError as error:
        if error_code(error) in _ABSENT:
            raise absent(where) from None
        raise _unavailable(error, where) from error
    except (BotoCoreError, Boto3Error) as error:
        raise _unavailable(error, where) from error
    except OSError as error:  # the disk of this host, not the store
        raise disk_error(error, Path(error.filename or ".")) from error


def error_code(error: BaseException) -> str | None:
    """Returns the code of a server's answer, or None for any other error."""
    return error.response["Error"].get("Code") if isinstance(error, ClientError) else None


def absent(where: str) -> RecordNotFoundError:
    """Says that an object is not there."""
    return RecordNotFoundError("not in the artifact store", where=where)


def _unavailable(error: Exception, where: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"S3 does not do what was asked: {error}",
        where=where,
        remedy="check the endpoint, the bucket and its policy, and the credentials "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
    )
