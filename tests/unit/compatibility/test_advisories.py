"""Known vulnerabilities of releases, and which engines they are about."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.compatibility.advisories import Standing, _order, advisory_table, concerns
from enginekeeper.specs.releases import releases
from registry.keys import EngineKey

TABLE = {one.id: one for one in advisory_table().advisories}


@pytest.mark.parametrize(
    ("advisory", "version", "standing"),
    [
        ("CVE-2025-23254", "0.18.1", Standing.AFFECTED),
        ("CVE-2025-23254", "0.18.2", Standing.UNAFFECTED),
        ("CVE-2025-33255", "1.1.0", Standing.AFFECTED),
        ("CVE-2025-33255", "1.2.0rc5", Standing.AFFECTED),
        ("CVE-2025-33255", "1.2.0", Standing.UNAFFECTED),
        ("CVE-2026-24205", "1.2.0", Standing.AFFECTED),
        ("CVE-2026-24205", "1.2.1", Standing.UNAFFECTED),
        ("CVE-2026-24233", "1.2.1", Standing.AFFECTED),
        ("CVE-2026-24233", "1.3.0rc14", Standing.AFFECTED),
        ("CVE-2026-24233", "1.3.0rc15", Standing.UNAFFECTED),
        ("CVE-2026-47472", "1.3.0rc9", Standing.AFFECTED),
        ("CVE-2026-47472", "1.3.0", Standing.UNAFFECTED),
        ("CVE-2026-24268", "10.14.1", Standing.AFFECTED),
        ("CVE-2026-24268", "10.9.0.34", Standing.AFFECTED),
        ("CVE-2026-24268", "11.0.0", Standing.UNAFFECTED),
        ("CVE-2026-24268", "", Standing.UNKNOWN),
        ("CVE-2026-24268", "10.14-custom", Standing.UNKNOWN),
        ("CVE-2026-24268", None, Standing.UNKNOWN),
    ],
)
def test_a_version_is_affected_below_the_mend(
    advisory: str, version: str | None, standing: Standing
) -> None:
    assert TABLE[advisory].about(version) is standing


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.integers(0, 99))
def test_release_candidates_come_in_order_and_before_their_release(
    numbers: list[int], candidate: int
) -> None:
    text = ".".join(map(str, numbers))
    names = [f"{text}rc{candidate}", f"{text}rc{candidate + 1}", text, f"{text}.0.1"]

    orders = [_order(name) for name in names]

    assert all(a is not None and b is not None and a < b for a, b in pairwise(orders))
    assert _order(text) == _order(f"{text}.0")


def test_an_engine_is_held_against_both_products_the_gravest_first() -> None:
    key = EngineKey.of(
        builder="tensorrt_llm", weights="w", tensorrt_llm="1.2.1", tensorrt="10.14.1"
    )

    found = concerns(key)

    assert {one.advisory.product for one in found} == {"tensorrt_llm", "tensorrt"}
    scores = [float(one.advisory.score) for one in found]
    assert scores == sorted(scores, reverse=True)
    assert "CVE-2025-33255" not in {one.advisory.id for one in found}


def test_an_engine_for_the_cpu_concerns_none() -> None:
    assert concerns(EngineKey.of(builder="inductor", weights="w", torch="2.13.0")) == ()


def test_a_version_that_cannot_be_read_is_told_and_not_passed_over() -> None:
    key = EngineKey.of(builder="tensorrt_llm", weights="w", tensorrt_llm="main", tensorrt="11.0")

    assert {one.standing for one in concerns(key)} == {Standing.UNKNOWN}


def test_every_release_that_builds_engines_has_known_vulnerabilities() -> None:
    for release in releases().values():
        if release.builds_engines:
            tensorrt = release.facts.tensorrt.value
            key = EngineKey.of(
                builder="tensorrt_llm", weights="w", tensorrt_llm=release.version,
                tensorrt=tensorrt,
            )  # fmt: skip
            assert concerns(key), release.name
