"""Ranges of versions on PostgreSQL: the same answers as on SQLite, and off an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.filters import values_of
from registry.models import EnvironmentRow, KeyRow
from registry.types import EngineFilter, Result
from registry.versions import VersionRange
from tests.factories.registry import H100, Workbench, make_workbench

DRIVERS = ("570.86.10", "570.124.06", "580.95.05")
RUNTIMES = ("12.4", "12.10", "13.0")


@pytest.fixture
def bench(postgresql_url: str, tmp_path: Path) -> Workbench:
    return make_workbench(tmp_path, url=postgresql_url)


def test_versions_are_compared_as_numbers(bench: Workbench) -> None:
    engines = [
        bench.publish(content=one.encode(), compute_capability="9.0", cuda_runtime=one,
                      gpu_product=H100.product)
        for one in RUNTIMES
    ]  # fmt: skip
    for engine, driver in zip(engines, DRIVERS, strict=True):
        bench.judge(engine, Result.PASS, replace(H100, driver=driver))
    registry = bench.registry
    assert registry.engines(EngineFilter(cuda=VersionRange.parse(">=12.9,<13"))) == [engines[1]]
    assert registry.engines(EngineFilter(driver=VersionRange.parse(">570.90"), qualified=True)) == [
        engines[2], engines[1],
    ]  # fmt: skip
    bench.judge(engines[1], Result.FAIL, replace(H100, driver=DRIVERS[1]))
    assert registry.engines(EngineFilter(driver=VersionRange.parse("R570"), qualified=True)) == [
        engines[0]
    ]
    registry.catalogue.close()


def test_different_versions_are_read_off_an_index(bench: Workbench) -> None:
    for one in RUNTIMES:
        bench.publish(content=one.encode(), cuda_runtime=one)
    with bench.registry.catalogue.read() as view:
        session = view._session
        assert values_of(KeyRow.cuda_runtime, session) == sorted(RUNTIMES)
        assert values_of(EnvironmentRow.driver, session) == []
        indexes = session.scalars(text("SELECT indexdef FROM pg_indexes")).all()
    assert any("keys" in one and "cuda_runtime" in one for one in indexes)
    bench.registry.catalogue.close()
