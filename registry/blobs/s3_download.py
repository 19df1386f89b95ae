"""Writes an object into a file, several ranges at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from botocore.exceptions import (
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from registry.blobs.in_order import in_order
from registry.blobs.interface import RANGE
from registry.blobs.partial import PIECE, write_at
from registry.blobs.s3_client import THREADS, S3Object, translated
from registry.errors import StoreUnavailableError

_PAUSE = 5.0  # seconds at most between two attempts
_CUT_SHORT = (
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    StoreUnavailableError,
)


def read_again() -> Retrying:
    """Returns attempts at reading an answer that go on while it is cut short."""
    return Retrying(
        retry=retry_if_exception_type(_CUT_SHORT),
        wait=wait_random_exponential(multiplier=0.1, max=_PAUSE),
        stop=stop_after_attempt(5),
        reraise=True,
    )


def write_ranges(source: S3Object, size: int, descriptor: int, start: int = 0) -> Iterator[int]:
    """Writes the bytes of an object of a known size from an offset on to their place in a file.

    Yields up to where the file is complete. Raises StoreUnavailableError when the server keeps
    cutting its answers short, or ignores ranges.
    """
    begins = range(start, size, RANGE)
    ranges = [_Range(source, begin, min(begin + RANGE, size)) for begin in begins]
    with translated(source.url):
        write = partial(_Range.write, descriptor=descriptor)
        yield from in_order(write, ranges, threads=THREADS, ahead=2 * THREADS)


@dataclass
class _Range:
    """A range of an object, and how far it is written."""

    source: S3Object
    done: int
    end: int

    def write(self, descriptor: int) -> int:
        """Writes the range; what comes after an answer that was cut short is asked for again."""
        for attempt in read_again():
            with attempt:
                self._go_on(descriptor)
        return self.end

    def _go_on(self, descriptor: int) -> None:
        asked = f"bytes {self.done}-{self.end - 1}"
        answer = self.source.client.get_object(**self.source.at, Range=asked.replace(" ", "="))
        body, given = answer["Body"], answer.get("ContentRange", "no range")
        try:
            if not given.startswith(f"{asked}/"):
                raise self._other_bytes(given)
            while self.done < self.end and (piece := body.read(PIECE)):
                self.done += write_at(descriptor, self.done, piece[: self.end - self.done])
        finally:
            body.close()
        if self.done < self.end:
            raise self._other_bytes(f"bytes up to {self.done}")

    def _other_bytes(self, found: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            "the server does not answer with the bytes it was asked for",
            where=self.source.url,
            actual=found,
            expected=f"bytes {self.done} to {self.end - 1}",
            remedy="run again; if it lasts, something between here and the server cuts answers "
            "short, or the server ignores ranges (`enginekeeper store probe` shows it)",
        )
