"""Which errors of stores and catalogues may pass by themselves."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from botocore.exceptions import ReadTimeoutError as ReadTimedOutError
from sqlalchemy.exc import OperationalError

from registry import catalogue
from registry.blobs import s3_client
from registry.blobs.interface import disk_error
from registry.errors import StoreUnavailableError


def answered(status: int) -> ClientError:
    said: Any = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "PutObject")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (EndpointConnectionError(endpoint_url="x"), True),
        (ReadTimedOutError(endpoint_url="x"), True),
        (answered(503), True),
        (answered(429), True),
        (answered(403), False),
        (NoCredentialsError(), False),
    ],
)
def test_s3_may_be_tried_again_when_it_was_not_reached_or_busy(
    error: Exception, *, transient: bool
) -> None:
    with pytest.raises(StoreUnavailableError) as caught, s3_client.translated("s3://b"):
        raise error
    assert caught.value.transient is transient


@pytest.mark.parametrize(
    ("original", "transient"),
    [
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.OperationalError("database or disk is full"), False),
        (ConnectionError("connection refused"), True),
    ],
)
def test_a_catalogue_may_be_tried_again_when_it_was_busy_or_not_reached(
    original: Exception, *, transient: bool
) -> None:
    with pytest.raises(StoreUnavailableError) as caught, catalogue.translated("db"):
        raise OperationalError("select", {}, original)
    assert caught.value.transient is transient


def test_a_full_disk_stays_full() -> None:
    assert not disk_error(OSError(errno.ENOSPC, "full"), Path("x")).transient
