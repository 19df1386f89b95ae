"""Emptying a place of a channel: on record, undone by a rollback, and the way out of one world."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.channels import find_place, way_back
from registry.digests import digest_bytes
from registry.errors import ConflictError, RecordNotFoundError
from registry.retention import RetentionPolicy, mark
from registry.types import ChannelMove, Engine, Place, Step
from tests.factories.registry import CPU, START, Workbench

PLACE = Place("prod", "smollm2-135m", "cpu")
SOON = START + timedelta(days=365)


def put(bench: Workbench, content: bytes, *, simulated: bool = False) -> Engine:
    engine = bench.publish(content=content, simulated=simulated)
    bench.judge(engine)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    return engine


def clear(bench: Workbench, *, dry_run: bool = False) -> ChannelMove | None:
    return bench.registry.clear_channel(PLACE, actor="anna", dry_run=dry_run)


def there(bench: Workbench) -> list[Engine]:
    with bench.registry.catalogue.read() as view:
        return view.positioned("prod", "smollm2-135m")


def kept(bench: Workbench) -> dict[str, tuple[str, ...]]:
    """Returns why engines are kept from a sweep that keeps nothing for being the newest."""
    policy = RetentionPolicy(rollbacks=1, per_key=0)
    with bench.registry.catalogue.read() as view:
        return {one.holding.digest.short: one.reasons for one in mark(view, policy, SOON)}


def test_a_simulated_engine_that_was_first_keeps_no_real_one_out(bench: Workbench) -> None:
    put(bench, b"double", simulated=True)
    with pytest.raises(ConflictError, match="channel clear prod --model smollm2-135m"):
        put(bench, b"real")
    clear(bench)
    real = put(bench, b"real")
    assert there(bench) == [real]
    with pytest.raises(ConflictError, match="do not share a channel"):
        put(bench, b"double", simulated=True)


def test_a_place_of_another_target_keeps_the_channel_in_its_world(bench: Workbench) -> None:
    double = put(bench, b"double", simulated=True)
    move = ChannelMove(
        "prod", "smollm2-135m", "h100-sxm", double.digest, None, CPU, "anna", START, simulated=True
    )
    with bench.registry.catalogue.edit() as draft:
        draft.move_channel(move, simulated=True)
    clear(bench)
    with pytest.raises(ConflictError, match="do not share a channel"):
        put(bench, b"real")


def test_what_was_cleared_is_in_the_history_and_in_the_audit_log(bench: Workbench) -> None:
    engine = put(bench, b"1")
    move = clear(bench)
    latest, before = bench.registry.channel_history("prod", "smollm2-135m")
    assert (latest, latest.cleared, latest.previous) == (move, True, engine.digest)
    assert (before.cleared, before.engine) == (False, engine.digest)
    with bench.registry.catalogue.read() as view:
        entry = view.last_audit_entry()
    assert entry is not None
    assert (entry.action, entry.actor) == ("channel clear", "anna")
    assert str(engine.digest) in entry.details


def test_a_rehearsal_clears_nothing_and_clearing_twice_is_once(bench: Workbench) -> None:
    engine = put(bench, b"1")
    rehearsed = clear(bench, dry_run=True)
    assert rehearsed is not None
    assert (rehearsed.engine, there(bench)) == (engine.digest, [engine])
    clear(bench)
    assert clear(bench) is None
    assert len(bench.registry.channel_history("prod", "smollm2-135m")) == 2


def test_a_rollback_undoes_it_and_the_way_goes_on_from_there(bench: Workbench) -> None:
    first, second = put(bench, b"1"), put(bench, b"2")
    clear(bench)
    with bench.registry.catalogue.read() as view:
        assert find_place(view, "prod") == PLACE
    assert bench.registry.roll_back(PLACE, actor="anna").engine == second.digest
    assert bench.registry.roll_back(PLACE, actor="anna").engine == first.digest


def test_no_rollback_leads_into_the_other_world(bench: Workbench) -> None:
    double = put(bench, b"double", simulated=True)
    clear(bench)
    put(bench, b"real")
    with pytest.raises(RecordNotFoundError, match="nothing to go back to"):
        bench.registry.roll_back(PLACE, actor="anna")
    with pytest.raises(ConflictError, match="do not share a channel"):
        bench.registry.roll_back(PLACE, actor="anna", to=double.digest)


def test_a_sweep_keeps_what_a_rollback_of_an_empty_place_leads_to(bench: Workbench) -> None:
    first, second = put(bench, b"1"), put(bench, b"2")
    clear(bench)
    assert kept(bench) == {second.digest.short: ("rollback",), first.digest.short: ()}


def test_engines_of_the_other_world_take_no_rollback_from_those_of_this(bench: Workbench) -> None:
    real = put(bench, b"real")
    clear(bench)
    put(bench, b"double", simulated=True)
    clear(bench)
    serving = put(bench, b"serving")
    reasons = kept(bench)
    assert reasons[real.digest.short] == ("rollback",)
    assert reasons[serving.digest.short] == ("channel",)


def test_a_place_that_nothing_was_ever_in_cannot_be_named(bench: Workbench) -> None:
    assert clear(bench) is None
    with bench.registry.catalogue.read() as view, pytest.raises(RecordNotFoundError):
        find_place(view, "prod")


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=10))
def test_clearing_puts_what_was_there_on_the_way_and_changes_nothing_else(
    taken: list[tuple[int, bool]],
) -> None:
    steps = [Step(digest_bytes(bytes([one])), rollback) for one, rollback in taken][::-1]
    emptied = [Step(steps[0].engine, rollback=False, cleared=True), *steps]
    assert way_back(emptied) == [steps[0].engine, *way_back(steps)]
    back = [Step(steps[0].engine, rollback=True), *emptied]
    assert way_back(back) == way_back(steps)
