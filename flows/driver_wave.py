"""The wave flow: lets a wave go on, step by step, until it has ended or stopped.

Not `wave.py`: the folder of a flow is on the path of its worker, and Python has a module `wave`.
"""

from __future__ import annotations

import time

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from enginekeeper.orchestration.bench import open_bench
from enginekeeper.orchestration.order import WaveOrder
from enginekeeper.orchestration.outcome import Outcome
from enginekeeper.orchestration.remote import reported
from enginekeeper.orchestration.retries import can_be_retried
from enginekeeper.orchestration.rollout import stepping

networked = task(
    retries=2, retry_delay_seconds=10, retry_condition_fn=can_be_retried, cache_policy=NO_CACHE
)

step = networked(stepping.step)


@flow(name="enginekeeper-driver_wave", persist_result=False)
def driver_wave(order: WaveOrder) -> list[Outcome]:
    """Lets a wave go on; killed at any moment it goes on where it was when it is run again."""
    return reported(lambda: _wave(order))


def _wave(order: WaveOrder) -> list[Outcome]:
    bench = open_bench()
    while not (found := step(bench, order.wave)).rests:
        time.sleep(order.interval_seconds)
    return [found.outcome()]
