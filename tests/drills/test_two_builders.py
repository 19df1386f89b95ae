"""Builders of one key at once, from processes of their own, again and again."""

from __future__ import annotations

import os
import time

import pytest

from registry.publishing import EnginePublication
from tests.drills.ground import Ground
from tests.drills.ledger import Ledger

ROUNDS = 10


@pytest.mark.parametrize("what", ["the same bytes", "other bytes"])
def test_two_builders_publish_one_key_at_once(ground: Ground, ledger: Ledger, what: str) -> None:
    drill = ledger.drill(
        "two builders of one key at once",
        f"two processes that start at the same moment, {ROUNDS} times, with the same bytes (each "
        "signed anew) and with different ones",
    )
    for turn in range(ROUNDS):
        content = os.urandom(64)
        both = [ground.publication(content if what == "the same bytes" else None) for _ in range(2)]
        statuses = publish_at_once(ground, both)
        assert statuses == [0, 0]
        for one in both:
            ground.acknowledged[one.manifest.digest] = one.manifest
        engines = {engine.digest for engine in ground.registry.engines()}
        expected = {one.manifest.digest for one in both}
        assert expected <= engines
        assert len(expected) == (1 if what == "the same bytes" else 2)
        for digest in expected:
            drill.ran(ground.look(digest), f"round {turn}")
    drill.ran(ground.look(), "at the end")


def publish_at_once(ground: Ground, publications: list[EnginePublication]) -> list[int]:
    """Publishes each in a process of its own, all from one moment on."""
    start = time.time() + 0.3
    children = []
    for one in publications:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                registry = ground.opened()
                time.sleep(max(0.0, start - time.time()))
                registry.publish_engine(one)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
