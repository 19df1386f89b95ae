"""Copies what somebody else keeps below a prefix on S3, such as a model.

Rules:

- no name is trusted: a key that would leave the destination stops the copy before it starts;
- no size is trusted: a file that is not as long as the listing said is an error;
- a prefix that changes while it is copied is an error: files of two versions never mix;
- only reading is asked for: ListBucket and GetObject are enough.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry.blobs.s3_client import S3Object, connect, translated
from registry.blobs.s3_download import write_ranges
from registry.blobs.s3_location import S3Location
from registry.digests import digest_document
from registry.errors import (
    ConflictError,
    InvalidRecordError,
    RecordNotFoundError,
)
from registry.names import check_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MAX_OBJECTS = 2_000
"""Ten times the shards of the largest public models: a whole bucket is named by mistake."""


@dataclass(frozen=True)
class _Object:
    key: str
    etag: str
    size: int
    version: str | None


@dataclass(frozen=True)
class _Prefix:
    """A prefix and the client that reads it."""

    location: S3Location
    client: S3Client

    def objects(self) -> list[_Object]:
        """Returns every object below the prefix, by key, each with its present state."""
        keys = sorted(self._keys())
        _check_names([key.removeprefix(self.location.root) for key in keys], self.location.url)
        return [self._look_at(key) for key in keys]

    def copy(self, one: _Object, destination: Path) -> None:
        """Writes one object to its place below the destination."""
        source = S3Object(self.client, self.location.bucket, one.key)
        path = destination / one.key.removeprefix(self.location.root)
        with translated(source.url):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                for _ in write_ranges(source, one.size, target.fileno()):
                    pass
                os.fsync(target.fileno())

    def _keys(self) -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.location.bucket, Prefix=self.location.root
        )
        count = 0
        with translated(self.location.url):
            for page in pages:
                for entry in page.get("Contents", []):
                    if entry["Key"].endswith("/") and entry["Size"] == 0:
                        continue  # what consoles put where they show a folder
                    count += 1
                    if count > _MAX_OBJECTS:
                        raise _too_many(self.location.url)
                    yield entry["Key"]
        if count == 0:
            raise RecordNotFoundError(
                "there is no object below the prefix",
                where=self.location.url,
                remedy="check the prefix, and the server: AWS_ENDPOINT_URL, if it is not AWS",
            )

    def _look_at(self, key: str) -> _Object:
        with translated(f"s3://{self.location.bucket}/{key}"):
            head = self.client.head_object(Bucket=self.location.bucket, Key=key)
        return _Object(key, head["ETag"], head["ContentLength"], head.get("VersionId"))


class S3PrefixReader:
    """Says in which state a prefix is, and copies it; without a client it connects by address."""

    def __init__(self, *, client: S3Client | None = None) -> None:
        self._client = client

    def state(self, url: str) -> str:
        """Returns a digest that changes whenever an object below the prefix does."""
        rows = [[one.key, one.etag, one.size, one.version] for one in self._open(url).objects()]
        return str(digest_document(rows, "ek-prefix-state-v1"))

    def fetch(self, url: str, destination: Path) -> None:
        """Copies every object below the prefix into a directory, by its relative name.

        Raises ConflictError when the prefix changed meanwhile; what was copied is then a mixture.
        """
        prefix = self._open(url)
        found = prefix.objects()
        for one in found:
            prefix.copy(one, destination)
        if prefix.objects() != found:
            raise ConflictError(
                "the objects below the prefix changed while they were copied",
                where=prefix.location.url,
                remedy="run again when nobody writes there",
                transient=True,
            )

    def _open(self, url: str) -> _Prefix:
        location = S3Location.from_url(url)
        return _Prefix(location, connect(location) if self._client is None else self._client)


def _check_names(names: list[str], where: str) -> None:
    """Refuses names that cannot all be files below one directory; S3 can hold `a` and `a/b`."""
    files = set(names)
    for name in names:
        folders = PurePosixPath(check_path(name, where=f"{where}, object")).parents
        for folder in map(str, folders):
            if folder in files:
                raise InvalidRecordError(
                    "an object has the name of a folder of other objects",
                    where=where,
                    actual=f"{folder} and {name}",
                )


def _too_many(where: str) -> InvalidRecordError:
    return InvalidRecordError(
        "more objects than a model has",
        where=where,
        actual=f"more than {_MAX_OBJECTS}",
        expected="the prefix of one model directory",
    )
