"""Reads an object in ranges, several at a time, and hands its bytes over in order."""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import (
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from registry.blobs.in_order import in_order
from registry.blobs.interface import PART
from registry.blobs.s3_client import THREADS, S3Object, translated
from registry.errors import StoreUnavailableError

_AHEAD = THREADS + 1
"""Ranges that are under way or wait for the disk: 80 MiB, whatever the size of the object."""

_CUT_SHORT = (
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    StoreUnavailableError,
)


def read_ranges(source: S3Object, size: int, start: int = 0) -> Iterator[bytes]:
    """Yields the bytes of an object of a known size from an offset on, in order.

    Raises StoreUnavailableError when the server keeps cutting its answers short, or ignores
    ranges.
    """

    def read(offset: int) -> bytes:
        return _read_range(source, offset, min(offset + PART, size))

    with translated(source.url):
        yield from in_order(read, range(start, size, PART), threads=THREADS, ahead=_AHEAD)


@retry(
    retry=retry_if_exception_type(_CUT_SHORT),
    wait=wait_random_exponential(multiplier=0.1, max=5),
    stop=stop_after_attempt(5),
    reraise=True,
)
def _read_range(source: S3Object, start: int, end: int) -> bytes:
    answer = source.client.get_object(**source.at, Range=f"bytes={start}-{end - 1}")
    where, given = answer.get("ContentRange", ""), answer["ContentLength"]
    if given != end - start or not where.startswith(f"bytes {start}-{end - 1}/"):
        answer["Body"].close()
        raise _other_bytes(source, f"{where or 'no range'}, {given} bytes", start, end)
    data = answer["Body"].read()
    if len(data) != end - start:
        raise _other_bytes(source, f"{len(data)} bytes", start, end)
    return data


def _other_bytes(source: S3Object, found: str, start: int, end: int) -> StoreUnavailableError:
    return StoreUnavailableError(
        "the server does not answer with the bytes it was asked for",
        where=source.url,
        actual=found,
        expected=f"bytes {start} to {end - 1}",
        remedy="run again; if it lasts, something between here and the server cuts answers "
        "short, or the server ignores ranges (`enginekeeper store probe` shows it)",
    )
