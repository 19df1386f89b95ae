"""What is asked for most is read by few statements, and comes out whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text

from registry.errors import InvalidRecordError, RecordNotFoundError
from registry.lifecycle import quarantine, release
from registry.publishing import CheckpointPublication
from registry.types import Engine, EngineFilter, Result
from tests.factories.registry import CPU, H100, WEIGHTS, Workbench, other
from tests.fakes.statements import asked


def selects(ask: Callable[[], object]) -> int:
    """Returns how many statements a question reads by."""
    with asked() as statements:
        ask()
    return sum(one.startswith("SELECT") for one in statements)


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    """An engine that was judged in two places, and is in a channel."""
    found = bench.publish()
    for where in (CPU, H100):
        bench.judge(found, environment=where)
    bench.registry.set_channel("prod", found.digest, CPU, actor="anna")
    return found


def test_the_gate_reads_all_it_decides_by_in_two_statements(
    bench: Workbench, engine: Engine
) -> None:
    assert selects(lambda: bench.registry.gate(engine.digest.short, CPU)) == 2


def test_a_channel_is_resolved_by_two_statements(bench: Workbench, engine: Engine) -> None:
    assert selects(lambda: bench.registry.resolve("prod", engine.model_name, CPU)) == 2


@pytest.mark.parametrize("more", ["standing", "waiver"])
def test_what_few_engines_have_costs_a_statement_only_where_it_is(
    bench: Workbench, engine: Engine, more: str
) -> None:
    plain = bench.publish(content=b"another")
    if more == "standing":
        quarantine(bench.registry, engine, "odd answers")
        release(bench.registry, engine, "a false alarm")
    else:
        bench.waive(engine, "verdict-failed")
    assert selects(lambda: bench.registry.gate(engine.digest, CPU)) == 3
    assert selects(lambda: bench.registry.gate(plain.digest, CPU)) == 2


def test_the_gate_is_given_every_record_of_an_engine_newest_first(
    bench: Workbench, engine: Engine
) -> None:
    failed = bench.judge(engine, Result.FAIL)
    waiver = bench.waive(engine, "verdict-failed")
    quarantine(bench.registry, engine, "odd answers")
    with bench.registry.catalogue.read() as view:
        found = view.recorded(engine.digest)
        assert found.verdicts == view.verdicts(engine.digest)
        assert found.standing == view.standing(engine.digest)
    assert (found.verdicts[0], len(found.verdicts)) == (failed, 3)
    assert found.waivers == [waiver]
    assert not found.unchecked


def test_an_engine_that_was_never_judged_has_no_verdicts(bench: Workbench) -> None:
    engine = bench.publish()
    with bench.registry.catalogue.read() as view:
        assert list(view.recorded(engine.digest).verdicts) == []
    assert bench.registry.gate(engine.digest, CPU).rule == "never-judged"


def test_the_records_of_an_engine_are_not_those_of_another(
    bench: Workbench, engine: Engine
) -> None:
    fresh = bench.publish(content=b"another")
    quarantine(bench.registry, engine, "odd answers")
    assert bench.registry.gate(fresh.digest, CPU).rule == "never-judged"


def test_records_of_an_engine_that_is_not_there_are_an_error(
    bench: Workbench, engine: Engine
) -> None:
    with (
        bench.registry.catalogue.read() as view,
        pytest.raises(RecordNotFoundError, match="no such engine"),
    ):
        view.recorded(other(engine.digest))


def test_engines_are_read_with_their_checkpoint_and_without(bench: Workbench) -> None:
    publication = bench.publication()
    checkpoint = bench.registry.publish_checkpoint(
        CheckpointPublication(publication.directory, WEIGHTS, "w8a16")
    )
    made = bench.registry.publish_engine(replace(publication, checkpoint=checkpoint.digest))
    alone = bench.publish(content=b"alone")
    found = {one.digest: one.checkpoint for one in bench.registry.engines()}
    assert found == {made.digest: checkpoint.digest, alone.digest: None}
    wanted = EngineFilter(checkpoint=checkpoint.digest)
    assert [one.digest for one in bench.registry.engines(wanted)] == [made.digest]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("engines", "digest", "sha256:zz"),
        ("keys", "hard", '{"builder": "inductor"}'),
        ("environments", "document", '{"kind": "gpu", "product": "L4"}'),
        ("verdicts", "digest", "none"),
    ],
)
def test_a_row_that_is_malformed_is_an_error_and_no_answer(
    bench: Workbench, engine: Engine, table: str, column: str, value: str
) -> None:
    with bench.registry.catalogue.edit() as draft:
        change = f"UPDATE {table} SET {column} = :value WHERE id = (SELECT max(id) FROM {table})"  # noqa: S608 - the names above
        draft._session.execute(text(change), {"value": value})
    with pytest.raises(InvalidRecordError):
        bench.registry.resolve("prod", engine.model_name, CPU)
