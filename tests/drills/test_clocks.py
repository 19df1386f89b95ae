"""Validators whose clocks are wrong: the latest to be recorded decides, and no old pass opens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from registry.errors import ConflictError, IntegrityError
from registry.types import Engine, Result
from tests.drills.ground import Ground
from tests.drills.ledger import Drill, Ledger
from tests.factories.registry import CPU

SKEWS = (timedelta(days=-3650), timedelta(hours=-1), timedelta(hours=1))
FUTURE = timedelta(days=3650)
"""Ahead of the clock of whoever records it, too."""


@pytest.fixture
def drill(ledger: Ledger) -> Drill:
    return ledger.drill(
        "clock skew",
        "a validator an hour or ten years ahead or behind: its pass before a right fail, its fail "
        "before a right pass, its pass after a right fail; a verdict from the future",
    )


def judge(ground: Ground, engine: Engine, result: Result, skew: timedelta = timedelta()) -> None:
    clock = ground.bench.clock
    clock.now += skew
    try:
        ground.bench.judge(engine, result)
    finally:
        clock.now -= skew


def is_open(ground: Ground, engine: Engine) -> bool:
    return ground.registry.gate(engine.digest, CPU).is_open


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_a_right_failure_closes_the_gate_after_a_skewed_pass(
    local_ground: Ground, drill: Drill, skew: timedelta
) -> None:
    engine = local_ground.publish(local_ground.publication())
    judge(local_ground, engine, Result.PASS, skew)
    assert is_open(local_ground, engine)
    judge(local_ground, engine, Result.FAIL)
    assert not is_open(local_ground, engine)
    drill.ran(local_ground.look(), f"pass at {skew}")


@pytest.mark.parametrize("skew", SKEWS, ids=str)
def test_a_skewed_failure_closes_the_gate_after_a_right_pass(
    local_ground: Ground, drill: Drill, skew: timedelta
) -> None:
    engine = local_ground.publish(local_ground.publication())
    judge(local_ground, engine, Result.PASS)
    judge(local_ground, engine, Result.FAIL, skew)
    assert not is_open(local_ground, engine)
    drill.ran(local_ground.look(), f"fail at {skew}")


@pytest.mark.parametrize("skew", SKEWS[:2], ids=str)
def test_a_pass_of_a_clock_that_is_behind_does_not_open_what_a_failure_closed(
    local_ground: Ground, drill: Drill, skew: timedelta
) -> None:
    engine = local_ground.publish(local_ground.publication())
    judge(local_ground, engine, Result.FAIL)
    with pytest.raises(ConflictError, match="clocks of the validators"):
        judge(local_ground, engine, Result.PASS, skew)
    assert not is_open(local_ground, engine)
    drill.ran(local_ground.look(), f"late pass at {skew}")


@pytest.mark.parametrize("skew", SKEWS[2:], ids=str)
def test_a_failure_of_a_clock_that_is_ahead_holds_the_gate_shut_and_says_why(
    local_ground: Ground, drill: Drill, skew: timedelta
) -> None:
    """The safe side: nobody can tell it from an old pass that is replayed."""
    engine = local_ground.publish(local_ground.publication())
    judge(local_ground, engine, Result.FAIL, skew)
    with pytest.raises(ConflictError, match="clocks of the validators"):
        judge(local_ground, engine, Result.PASS)
    drill.ran(local_ground.look(), f"fail at {skew}")


@pytest.mark.parametrize("result", [Result.PASS, Result.FAIL])
def test_a_verdict_from_the_future_is_not_recorded_and_changes_nothing(
    local_ground: Ground, drill: Drill, result: Result
) -> None:
    engine = local_ground.publish(local_ground.publication())
    with pytest.raises(IntegrityError, match="clocks"):
        judge(local_ground, engine, result, FUTURE)
    assert local_ground.registry.verdicts(engine.digest) == []
    judge(local_ground, engine, Result.PASS)
    local_ground.passed.add(engine.digest)
    drill.ran(local_ground.look(), f"{result} from the future")
