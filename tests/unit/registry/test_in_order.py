"""Work of several threads, handed over in order and bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from registry.blobs.in_order import in_order


def test_results_come_in_the_order_of_the_items() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(60)
        else:
            first_may_end.set()
        return item * item

    assert list(in_order(work, range(5), threads=2, ahead=3)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_items_are_taken_than_may_be_ahead(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = in_order(lambda item: item, items(), threads=2, ahead=ahead)
    for done in range(10):
        assert next(results) == done
        assert len(taken) <= done + ahead


def test_a_failure_is_raised_in_its_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    results = in_order(work, range(100), threads=1, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) < 10


def test_no_items_are_no_work() -> None:
    assert list(in_order(str, [], threads=2, ahead=2)) == []
