"""`ek advisories`: what is listed of which engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import publish_for_gpu

Ek = Callable[..., Any]


@pytest.fixture
def engines(site: Site, tmp_path: Path) -> dict[str, str]:
    """An engine of a release with a known vulnerability, a simulated one, one for the CPU."""
    (cpu,) = variants_of(tmp_path)
    more = "targets: [h100-sxm]\ntoolchain: simulated-tensorrt-llm-1.2.1\n"
    (simulated,) = variants_of(tmp_path, more=more)
    return {
        "real": str(publish_for_gpu(site, cpu, tensorrt_llm="1.1.0").digest),
        "simulated": str(site.publish(simulated, b"double").digest),
        "cpu": str(site.publish(cpu, b"cpu").digest),
    }


def test_engines_are_listed_by_vulnerability_with_source_and_mark(
    ek: Ek, engines: dict[str, str]
) -> None:
    said = ek("advisories", "--json")

    assert said.code == ExitCode.OK
    found = {one["advisory"]: one for one in said.json}
    old = found["CVE-2025-33255"]
    assert [one["engine"] for one in old["engines"]] == [engines["real"]]
    assert "product-security 2026/5805" in old["source"]
    both = {one["engine"]: one["simulated"] for one in found["CVE-2026-24233"]["engines"]}
    assert both == {engines["real"]: False, engines["simulated"]: True}
    assert "CVE-2025-23254" not in found


@pytest.mark.usefixtures("engines")
def test_a_person_sees_how_many_and_from_when_the_table_is(ek: Ek) -> None:
    said = ek("advisories")

    assert "2 (1 SIMULATED)" in said.out
    assert "as of 2026-11-26" in said.err


@pytest.mark.usefixtures("site")
def test_without_engines_there_is_nothing_to_list_but_by_asking_for_all(ek: Ek) -> None:
    assert ek("advisories", "--json").json == []
    assert len(ek("advisories", "--all", "--json").json) == 22
