"""How S3 is talked to: the client's settings, objects, and what its errors mean here.

Transfers are our own, over the classic client: boto3's cannot go on with what was interrupted,
and its CRT client ignores `endpoint_url` (boto3 #4839).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnectedError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from registry.blobs.interface import disk_error
from registry.blobs.s3_location import S3Location
from registry.errors import InvalidRecordError, RecordNotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ATTEMPTS = 6  # of every request, with pauses between them
_SILENT = 60  # seconds that a server may say nothing
THREADS = 4
"""Requests at a time for one file; more were not faster, fewer were slower."""
_TOO_MANY, _SERVER_ERROR = 429, 500
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
TAKEN = frozenset({"PreconditionFailed", "412"})
"""What a server answers when a condition of a write does not hold."""
_RACING = frozenset({"ConditionalRequestConflict", "409", "NoSuchUpload"})
"""What it answers when somebody else is at it: the write is run again."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # boto3 itself connects there


@dataclass(frozen=True)
class S3Object:
    """A name in a bucket, and the client that reaches it."""

    client: S3Client
    bucket: str
    key: str

    @property
    def at(self) -> dict[str, Any]:
        """Bucket and key, as boto3's operations take them."""
        return {"Bucket": self.bucket, "Key": self.key}

    @property
    def url(self) -> str:
        """The address for a person to read."""
        return f"s3://{self.bucket}/{self.key}"


def connect(location: S3Location) -> S3Client:
    """Returns a client for a location; does not touch the network."""
    elsewhere = location.endpoint_url is not None or any(map(os.environ.get, _ENDPOINTS))
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=10,
        read_timeout=_SILENT,
        max_pool_connections=2 * THREADS,
        signature_version="s3v4",
        # Uploads carry the checksums that the server was seen to verify; downloads, our SHA-256.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
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


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turns what boto3 and the disk raise in the block into the registry's errors."""
    try:
        yield
    except ClientError as error:
        if is_absent(error):
            raise absent(where) from None
        raise _unavailable(error, where) from error
    except BotoCoreError as error:
        raise _unavailable(error, where) from error
    except OSError as error:  # the disk of this host, not the store
        raise disk_error(error, Path(error.filename or ".")) from error


def again() -> Retrying:
    """Returns attempts at a write that go on while somebody else is at it."""
    return Retrying(
        retry=retry_if_exception(lambda error: error_code(error) in _RACING),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_attempt(6),
        reraise=True,
    )


def error_code(error: BaseException) -> str | None:
    """Returns the code of a server's answer, or None for any other error."""
    return error.response["Error"].get("Code") if isinstance(error, ClientError) else None


def is_absent(error: ClientError) -> bool:
    """Says whether a server's answer is that there is no such object."""
    return error_code(error) in _ABSENT


def absent(where: str) -> RecordNotFoundError:
    """Says that an object is not there."""
    return RecordNotFoundError("not in the artifact store", where=where)


def _unavailable(error: Exception, where: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"S3 does not do what was asked: {error}",
        where=where,
        remedy="check the endpoint, the bucket and its policy, and the credentials "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
        transient=_may_pass(error),
    )


def _may_pass(error: Exception) -> bool:
    """Says whether the server was not reached, was busy or failed, rather than refused."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= _SERVER_ERROR or status == _TOO_MANY
    return isinstance(error, (NotConnectedError, HTTPClientError))
