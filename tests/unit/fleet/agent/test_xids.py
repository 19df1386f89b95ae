"""A listener beside the agent: what it hears is known, and it is started again when it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.agent.xids import XidWatch
from enginekeeper.fleet.interface import XidEvent

AT = "2026-11-26T03:00:00+00:00"
Tell = Callable[[XidEvent], None]
GoingOn = Callable[[], bool]


def telling(*events: XidEvent, stays: bool = True) -> Callable[[Tell, GoingOn], None]:
    """Returns a listener that hears these, and stays or ends."""

    def listen(tell: Tell, going_on: GoingOn) -> None:
        for one in events:
            tell(one)
        while stays and going_on():
            time.sleep(0.01)

    return listen


@pytest.fixture
def opened() -> Iterator[list[XidWatch]]:
    """Watches that are closed whatever happens."""
    found: list[XidWatch] = []
    yield found
    for one in found:
        one.close()


def until(watch: XidWatch, true: Callable[[Mapping[str, XidEvent]], object]) -> None:
    end = time.monotonic() + 10
    while not true(watch("580.95.05")):
        assert time.monotonic() < end, "that did not come to pass"
        time.sleep(0.01)


def test_the_last_error_of_each_gpu_is_known(opened: list[XidWatch]) -> None:
    events = [XidEvent("GPU-0", 31, AT), XidEvent("GPU-1", 63, AT), XidEvent("GPU-0", 48, AT)]
    watch = XidWatch(telling(*events))
    opened.append(watch)
    until(watch, lambda heard: len(heard) == 2)
    until(watch, lambda heard: heard["GPU-0"].xid == 48)
    assert watch("580.95.05")["GPU-1"] == XidEvent("GPU-1", 63, AT)


def test_that_a_gpu_tells_none_replaces_no_error(opened: list[XidWatch]) -> None:
    told = [XidEvent("GPU-0", 48, AT), XidEvent("GPU-0", None, AT, "GPU is lost")]
    watch = XidWatch(telling(*told, XidEvent("GPU-1", None, AT, "Not Supported")))
    opened.append(watch)
    until(watch, lambda heard: "GPU-1" in heard)
    heard = watch("580.95.05")
    assert (heard["GPU-0"].xid, heard["GPU-1"].why) == (48, "Not Supported")


def test_nobody_listens_where_there_is_no_driver(opened: list[XidWatch]) -> None:
    watch = XidWatch(telling(XidEvent("GPU-0", 48, AT)))
    opened.append(watch)
    assert watch(None) == {}
    time.sleep(0.1)
    assert watch(None) == {}


def children() -> set[str]:
    """Returns this process's children, ended ones that nobody waited for among them."""
    lists = Path("/proc/self/task").glob("*/children")
    return {child for one in lists for child in one.read_text().split()}


def failing(_tell: Tell, _going_on: GoingOn) -> None:
    raise UnavailableError("NVML does not start")


@pytest.mark.parametrize("listen", [failing, telling(stays=False)])
def test_a_listener_that_ended_is_started_again_and_leaves_no_process(
    listen: Callable[[Tell, GoingOn], None], opened: list[XidWatch]
) -> None:
    before, watch = children(), XidWatch(listen)
    opened.append(watch)
    for _ in range(20):
        assert watch("580.95.05") == {}
        time.sleep(0.01)
    watch.close()
    assert children() <= before


def test_under_another_driver_somebody_else_listens_and_what_was_heard_stays(
    opened: list[XidWatch],
) -> None:
    def listen(tell: Tell, going_on: GoingOn) -> None:
        tell(XidEvent(f"GPU-{os.getpid()}", 48, AT))
        while going_on():
            time.sleep(0.01)

    watch = XidWatch(listen)
    opened.append(watch)
    until(watch, len)
    end = time.monotonic() + 10
    while len(watch("595.71.05")) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
