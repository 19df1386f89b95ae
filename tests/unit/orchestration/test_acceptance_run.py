"""An acceptance builds what it names and signs what came of it; doubles under their own root."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.errors import MissingError
from enginekeeper.fleet.interface import NullNvml
from enginekeeper.orchestration.acceptance_run import (
    REPORT,
    ROW,
    SIGNED,
    SPEC,
    Accepted,
    read_report,
    run_acceptance,
    verified_report,
)
from enginekeeper.orchestration.accepting import HostAcceptance, accept
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.specs.loader import load_variants
from enginekeeper.specs.profiles import toolchain_profiles
from registry.errors import IntegrityError
from tests.factories.benches import Site

DOUBLE = "simulated-tensorrt-llm-1.2.1"


def _outcomes(order: BuildOrder) -> list[Outcome]:
    """Ends every variant of the spec: those of integers are refused, one fails, the rest pass."""
    found = []
    for variant in load_variants(Path(order.path)):
        name = str(variant.identifier)
        if ".w8a8_sq." in name:
            found.append(Outcome(name, Ending.REFUSED, None, "a rule refuses it", simulated=True))
            continue
        result = "fail" if ".fp8." in name else "pass"
        found.append(Outcome(name, Ending.JUDGED, result, f"{result}!", simulated=True))
    return found


@pytest.fixture
def found(site: Site) -> HostAcceptance:
    return accept(NullNvml(), site.bench.settings, toolchain_profiles()[DOUBLE], ["h100-sxm"])


@pytest.fixture
def accepted(site: Site, found: HostAcceptance, tmp_path: Path) -> Accepted:
    return run_acceptance(
        site.bench,
        found,
        tmp_path / "accepted",
        build=_outcomes,
        clock=lambda: datetime(2026, 11, 25, 12, tzinfo=UTC),
    )


def test_the_report_says_what_became_of_every_recipe(accepted: Accepted) -> None:
    assert (accepted.document["simulated"], accepted.document["toolchain"]) == (True, DOUBLE)
    assert len(accepted.document["outcomes"]) == len(load_variants(accepted.folder / SPEC))
    assert accepted.row.startswith(f"| SmolLM2-135M by {DOUBLE} | **simulated**")
    assert "2026-11-25: 1 fail, " in accepted.row
    assert "1 refused" in accepted.row
    assert (accepted.folder / ROW).read_text() == f"{accepted.row}\n"


def test_the_report_is_signed_by_the_validator_of_simulated_engines(
    accepted: Accepted, site: Site
) -> None:
    trust = site.bench.trust

    assert read_report(accepted.folder, trust, simulated=True) == accepted.document
    with pytest.raises(IntegrityError):
        read_report(accepted.folder, trust, simulated=False)


def test_a_report_that_somebody_changed_is_refused(accepted: Accepted, site: Site) -> None:
    changed = (accepted.folder / REPORT).read_text().replace('"fail"', '"pass"')
    assert json.loads(changed)
    (accepted.folder / REPORT).write_text(changed)

    with pytest.raises(IntegrityError):
        read_report(accepted.folder, site.bench.trust, simulated=True)


def test_a_report_is_verified_under_the_root_that_signed_it(accepted: Accepted, site: Site) -> None:
    assert verified_report(accepted.folder, site.bench.trust)["simulated"] is True


def test_a_changed_report_is_verified_under_no_root(accepted: Accepted, site: Site) -> None:
    changed = (
        (accepted.folder / REPORT).read_text().replace('"simulated":true', '"simulated":false')
    )
    (accepted.folder / REPORT).write_text(changed)

    with pytest.raises(IntegrityError):
        verified_report(accepted.folder, site.bench.trust)


def test_a_folder_without_a_report_is_named(accepted: Accepted, site: Site) -> None:
    (accepted.folder / SIGNED).unlink()

    with pytest.raises(MissingError, match="no report of an acceptance"):
        verified_report(accepted.folder, site.bench.trust)


def test_a_directory_in_a_reports_place_is_none(accepted: Accepted, site: Site) -> None:
    (accepted.folder / SIGNED).unlink()
    (accepted.folder / SIGNED).mkdir()

    with pytest.raises(MissingError, match="no report of an acceptance"):
        verified_report(accepted.folder, site.bench.trust)


def test_what_is_left_out_is_not_built(site: Site, found: HostAcceptance, tmp_path: Path) -> None:
    asked: list[BuildOrder] = []

    def build(order: BuildOrder) -> list[Outcome]:
        asked.append(order)
        return []

    run_acceptance(
        site.bench, found, tmp_path / "a", build=build, clock=lambda: datetime.now(UTC),
        only=["*.w8a16.*"],
    )  # fmt: skip

    assert asked == [BuildOrder(str(tmp_path / "a" / SPEC), only=("*.w8a16.*",))]
