"""Work that is done by several threads and handed over in order, a bounded part of it at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """Yields `work(item)` for each item, in order, with at most `ahead` of them not yet taken.

    Items are taken from the iterable in the caller's own thread, between two results. When the
    work fails or the caller stops, what was not begun is not begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="transfer")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
