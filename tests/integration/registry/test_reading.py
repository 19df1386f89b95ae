"""The gate and channels on both databases: the same answers, by as few statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.lifecycle import quarantine
from registry.types import Result
from tests.factories.registry import CPU, H100, Workbench, make_workbench
from tests.fakes.statements import asked


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workbench]:
    on_server = request.param == "postgresql"
    url = request.getfixturevalue("postgresql_url") if on_server else None
    made = make_workbench(tmp_path, url=url)
    yield made
    made.registry.catalogue.close()


def test_the_gate_decides_by_every_record_of_an_engine(bench: Workbench) -> None:
    engine = bench.publish()
    rules = [bench.registry.gate(engine.digest, CPU).rule]
    for result in (Result.PASS, Result.FAIL):
        bench.judge(engine, result)
        rules.append(bench.registry.gate(engine.digest, CPU).rule)
    rules.append(bench.registry.gate(engine.digest, H100).rule)
    bench.waive(engine, "verdict-failed")
    rules.append(bench.registry.gate(engine.digest, CPU).rule)
    quarantine(bench.registry, engine, "odd answers")
    rules.append(bench.registry.gate(engine.digest, CPU).rule)
    assert rules == [
        "never-judged", "qualified", "verdict-failed", "not-qualified-here", "waived",
        "quarantined",
    ]  # fmt: skip


def test_a_question_is_two_statements(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    with asked() as statements:
        assert bench.registry.gate(engine.digest.short, CPU).is_open
        assert bench.registry.resolve("prod", engine.model_name, CPU).decision.is_open
    assert sum(one.startswith("SELECT") for one in statements) == 4
