"""Multipart uploads that were begun and not completed: found, and swept when nobody goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from registry.blobs.s3_client import S3Object, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import PartTypeDef


@dataclass(frozen=True)
class Unfinished:
    """An upload that the server lists."""

    key: str
    id: str
    begun: datetime
    now: datetime
    """When the server said so, by its own clock."""


def unfinished_uploads(prefix: S3Object) -> Iterator[Unfinished]:
    """Yields the unfinished uploads of objects whose keys start with that of the prefix."""
    pages = prefix.client.get_paginator("list_multipart_uploads").paginate(
        Bucket=prefix.bucket, Prefix=prefix.key
    )
    for page in pages:
        now = server_time(page)
        for one in page.get("Uploads", []):
            if one["Key"].startswith(prefix.key):  # a server may know no prefixes here
                yield Unfinished(one["Key"], one["UploadId"], one["Initiated"], now)


def finished_parts(target: S3Object, upload: str) -> dict[int, PartTypeDef]:
    """Returns the parts that an upload has, by number."""
    pages = target.client.get_paginator("list_parts").paginate(**target.at, UploadId=upload)
    return {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}


def sweep(prefix: S3Object, *, older_than: timedelta, dry_run: bool) -> list[str]:
    """Aborts uploads below a prefix that got no part for that long; returns their keys."""
    swept = []
    for one in list(unfinished_uploads(prefix)):
        target = replace(prefix, key=one.key)
        try:
            if one.now - _last_touched(target, one) <= older_than:
                continue
            if not dry_run:
                target.client.abort_multipart_upload(**target.at, UploadId=one.id)
        except ClientError as error:
            if error_code(error) != "NoSuchUpload":  # completed or swept by somebody else
                raise
            continue
        swept.append(one.key)
    return swept


def _last_touched(target: S3Object, upload: Unfinished) -> datetime:
    parts = finished_parts(target, upload.id).values()
    return max([upload.begun, *(part["LastModified"] for part in parts)])


def server_time(page: Any) -> datetime:  # noqa: ANN401 - the stubs know no headers by name
    """Returns the server's clock: ours may be wrong, and an upload young that looks old."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return datetime.now(UTC) if date is None else parsedate_to_datetime(date)
