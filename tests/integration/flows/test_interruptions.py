"""A build that is interrupted wherever it changes something, and ends as an undisturbed one.

One world is built again and again, each time interrupted at the first moment that was not
interrupted before: by Ctrl-C, SIGTERM and kill -9 in turn, inside steps and between them. After
each interruption everything that is there is whole; at the end nothing was made twice, nothing is
left over, and the outcome is that of a build in peace.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.worlds import Ended, World
from tests.integration.flows.conftest import MakeWorld

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}

STAGES = {
    "fetch": "in fetch_hub",
    "tokenize": "in tokenize_suite",
    "reference": "in reference",
    "record": "os.rename home/store/references",
    "quantize": "in quantize",
    "repair": "open cache/work/repaired",
    "audit": "says tiny.w8a16.tp1.cpu: audit",
    "compile": "in compile_engine",
    "publish": "os.rename home/store/engines",
    "score": "in score_engine",
    "judge": "os.rename home/store/statements/#/verdicts",
}
"""Every stage, and how a boundary inside it begins."""


def matters(name: str) -> bool:
    """Leaves out what makes room or removes, logs and locks: half the time, a tenth of the risk."""
    kind, _, path = name.partition(" ")
    if kind in ("os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        return False
    return "/locks/" not in path and not path.startswith(("home/runs", "cache/models/logs"))


def interrupt(world: World, passed: set[str], signals: tuple[str, ...]) -> Ended:
    """Builds until no boundary is left to be interrupted at; returns the run that was not."""
    before: dict[str, int] = {}
    for turn in range(1000):
        number = signals[turn % len(signals)]
        ended = world.build(passed=sorted(passed), signal=number, group=turn % 2 == 0)
        if not ended.notes:
            return ended
        (where,) = ended.notes
        assert ended.status == STATUS[number], f"{number} at {where}: {ended.err}"
        assert "Traceback" not in ended.err, where
        world.check()
        after = world.products()
        assert before.items() <= after.items(), f"{number} at {where} cost a finished product"
        before = after
        passed.add(where)
        world.age()
    raise AssertionError("a build that is never interrupted at the same place twice ends")


def without_times(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns outcomes without what a run that made nothing cannot say: where, and how long."""
    return [{**one, "seconds": None, "path": None} for one in outcomes]


def check_chain(make_world: MakeWorld, signals: tuple[str, ...], *, everything: bool) -> set[str]:
    calm, disturbed = make_world("calm"), make_world("disturbed")
    undisturbed = calm.build()
    assert undisturbed.status == 0, undisturbed.err
    left_out = {name for name in undisturbed.notes if not everything and not matters(name)}
    passed = set(left_out)

    ended = interrupt(disturbed, passed, signals)

    assert ended.status == 0, ended.err
    again = disturbed.build()
    assert without_times(again.outcomes) == without_times(calm.build().outcomes)
    assert disturbed.tree() == calm.tree()
    return passed - left_out


def test_an_interrupted_build_goes_on_where_it_was(make_world: MakeWorld) -> None:
    interrupted = check_chain(make_world, ("SIGKILL", "SIGINT", "SIGTERM"), everything=False)

    for stage, start in STAGES.items():
        assert any(name.startswith(start) for name in interrupted), f"{stage} was not interrupted"


@pytest.mark.parametrize("number", STATUS)
def test_a_step_that_would_go_on_ends_with_its_build(make_world: MakeWorld, number: str) -> None:
    world = make_world("world")

    with world.held():
        ended = world.build(at=STAGES["fetch"], signal=number)

        assert ended.status == STATUS[number]
        assert world.survivors() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_every_boundary_stands_every_signal(make_world: MakeWorld, number: str) -> None:
    assert len(check_chain(make_world, (number,), everything=True)) > 150
