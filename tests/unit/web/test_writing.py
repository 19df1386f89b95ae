"""Inventories that are committed together: each waits for its own end, and none for another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from enginekeeper.fleet.ingest import Ingest, Offered
from enginekeeper.web import writing
from enginekeeper.web.writing import InventoryWriter
from registry.errors import InvalidRecordError, RegistryError, StoreUnavailableError
from registry.fleet.types import Taken, TakenReport


@dataclass(frozen=True)
class Speaker:
    id: int


@dataclass(frozen=True)
class Inventory:
    """Stands for what was offered; the writer looks at its speaker alone."""

    speaker: Speaker
    bad: bool = False


@dataclass
class Catalogue:
    """Takes portions, and remembers them."""

    portions: list[list[int]] = field(default_factory=list)
    down: bool = False

    def take(self, offered: Sequence[Inventory]) -> list[TakenReport]:
        self.portions.append([one.speaker.id for one in offered])
        if self.down:
            raise StoreUnavailableError("down")
        if any(one.bad for one in offered):
            raise InvalidRecordError("not storable")
        return [TakenReport(Taken.RECORDED, one.speaker.id) for one in offered]


def write(catalogue: Catalogue, *offered: Inventory) -> list[TakenReport | BaseException]:
    async def all_of_them() -> list[TakenReport | BaseException]:
        writer = InventoryWriter(cast("Ingest", catalogue))
        waiting = [writer.write(cast("Offered", one)) for one in offered]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await writer.finish()
        return found

    return asyncio.run(all_of_them())


def test_those_that_wait_are_written_together() -> None:
    catalogue = Catalogue()
    found = write(catalogue, *(Inventory(Speaker(at)) for at in range(5)))
    assert catalogue.portions == [[0, 1, 2, 3, 4]]
    assert [one.profile for one in found if isinstance(one, TakenReport)] == [0, 1, 2, 3, 4]


def test_those_that_come_a_moment_later_go_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_GATHER_SECONDS", 2.0)
    catalogue = Catalogue()

    async def one_after_the_other() -> None:
        writer = InventoryWriter(cast("Ingest", catalogue))
        first = asyncio.create_task(writer.write(cast("Offered", Inventory(Speaker(1)))))
        await asyncio.sleep(0.05)
        await writer.write(cast("Offered", Inventory(Speaker(2))))
        await first

    asyncio.run(one_after_the_other())
    assert catalogue.portions == [[1, 2]]


@pytest.mark.parametrize(("waiting", "looks"), [(1, 1), (writing._TOGETHER, 0)])
def test_nobody_waits_for_others_who_do_not_come_or_have_no_place(
    monkeypatch: pytest.MonkeyPatch, waiting: int, looks: int
) -> None:
    catalogue, slept, sleep = Catalogue(), list[float](), asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    write(catalogue, *(Inventory(Speaker(at)) for at in range(waiting)))
    assert len(slept) == looks
    assert [len(one) for one in catalogue.portions] == [waiting]


def test_a_node_is_in_a_portion_once_and_in_order() -> None:
    catalogue = Catalogue()
    write(catalogue, *(Inventory(Speaker(at)) for at in (1, 1, 2, 1)))
    assert catalogue.portions == [[1, 2], [1], [1]]


def test_one_that_cannot_be_stored_keeps_no_other_out() -> None:
    catalogue = Catalogue()
    found = write(catalogue, Inventory(Speaker(1)), Inventory(Speaker(2), bad=True))
    assert isinstance(found[0], TakenReport)
    assert isinstance(found[1], InvalidRecordError)


def test_a_catalogue_that_is_down_is_asked_once_for_all() -> None:
    catalogue = Catalogue(down=True)
    found = write(catalogue, Inventory(Speaker(1)), Inventory(Speaker(2)))
    assert catalogue.portions == [[1, 2]]
    assert all(isinstance(one, RegistryError) for one in found)
