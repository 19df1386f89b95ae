"""What was said of a fleet's engines, and when, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry import migrate
from registry.types import Result
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu

FIRST = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    urls: dict[str, str] = {}
    if request.param == "postgresql":
        urls["ENGINEKEEPER_CATALOGUE"] = request.getfixturevalue("postgresql_url")
        migrate.upgrade(urls["ENGINEKEEPER_CATALOGUE"])
    found = make_site(tmp_path, urls=urls or None)
    yield found
    found.bench.registry.catalogue.close()


def test_only_where_a_failure_overtook_a_pass_it_is_told_when_each_was_issued(
    site: Site, tmp_path: Path
) -> None:
    variant, later = variants_of(tmp_path)[0], FIRST + timedelta(days=1)
    plain, overtaken = (
        publish_for_gpu(site, variant, content=content) for content in (b"plain", b"overtaken")
    )
    other = replace(H100, driver="580.126.01")
    site.judge(plain, variant, Result.FAIL, H100, at=FIRST)
    site.judge(plain, variant, Result.PASS, other, at=later)
    site.judge(overtaken, variant, Result.FAIL, H100, at=later)
    site.judge(overtaken, variant, Result.PASS, other, at=FIRST)
    with site.bench.registry.catalogue.read() as view:
        engines = view.fleet.engine_rows([str(plain.digest), str(overtaken.digest)])
        rows = {digest: row for row, digest in engines.items()}
        judged = view.fleet.judged(rows.values())
        moments = [
            (engine, Result(result), at)
            for engine, _, result, at in view.fleet.verdict_moments([str(overtaken.digest)])
        ]
    assert [at for *_, at in judged[rows[plain.digest]]] == [None, None]
    assert [(result, at) for _, result, at in judged[rows[overtaken.digest]]] == [
        ("pass", FIRST), ("fail", later),
    ]  # fmt: skip
    assert moments == [
        (str(overtaken.digest), Result.PASS, FIRST), (str(overtaken.digest), Result.FAIL, later),
    ]  # fmt: skip
