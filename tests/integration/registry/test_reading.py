"""The gate and channels on both databases: the same answers, by as few statements."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.errors import StoreUnavailableError
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


def test_a_channel_is_narrowed_to_a_gpu_as_its_keys_say(bench: Workbench) -> None:
    made = {}
    for cuda in ("12.9", "13.0"):
        hardware = {"compute_capability": "9.0", "gpu_product": H100.product, "cuda_runtime": cuda}
        made[cuda] = bench.publish(content=cuda.encode(), **hardware)
    bench.judge(made["12.9"], environment=H100)
    bench.registry.set_channel("prod", made["12.9"].digest, H100, actor="anna")
    with bench.registry.catalogue.read() as view:
        there = [
            view.positioned("prod", "smollm2-135m", where)
            for where in (
                None, H100, replace(H100, driver="590.48.01"), replace(H100, cuda_runtime="13.0"),
                replace(H100, compute_capability="8.9"), replace(H100, product="NVIDIA L4"),
            )
        ]  # fmt: skip
    assert there == [[made["12.9"]]] * 3 + [[]] * 3


def test_a_view_of_a_server_can_change_nothing(bench: Workbench) -> None:
    engine = bench.publish()
    change = text("UPDATE engines SET recipe = 'none'")
    with contextlib.suppress(StoreUnavailableError), bench.registry.catalogue.read() as view:
        view._session.execute(change)
    assert bench.registry.engine(engine.digest) == engine


def test_what_is_asked_again_and_again_is_prepared_once(
    postgresql_url: str, tmp_path: Path
) -> None:
    bench = make_workbench(tmp_path, url=postgresql_url)
    engine = bench.publish()
    bench.judge(engine)
    for _ in range(10):
        assert bench.registry.gate(engine.digest, CPU).is_open
    with bench.registry.catalogue.read() as view:
        prepared = view._session.scalars(text("SELECT statement FROM pg_prepared_statements"))
        assert sum(one.startswith("SELECT") for one in prepared) >= 2
    bench.registry.catalogue.close()
