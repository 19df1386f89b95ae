"""Verdicts on engines: a signature is checked when it is asked for, once, and read with others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.compatibility.decision import Judgement
from enginekeeper.orchestration import attested
from enginekeeper.orchestration.wave_planning import known_engines
from registry.trust import Purpose
from registry.types import Engine
from registry.verification import Signature, verdict_signature
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.fakes.statements import asked

ON_R590 = replace(H100, driver="590.48.01", cuda_driver="13.1")
ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100, ON_R590, ON_R595)


def said(site: Site, engine: Engine, *drivers: str) -> tuple[Judgement, ...]:
    found = known_engines(
        site.bench.registry, [str(engine.digest)], simulated_nodes=False, drivers=drivers
    )
    return found[str(engine.digest)].judgements


def test_a_signature_is_checked_when_it_is_asked_for_and_once(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def note(*arguments: object) -> Signature:
        checked.append(str(arguments[1].environment))  # type: ignore[attr-defined]
        return verdict_signature(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(attested, "verdict_signature", note)
    judgements = said(site, engine, ON_R595.driver)
    assert checked == []
    assert [judgements[0].fault, judgements[0].fault] == [None, None]
    assert checked == [str(ON_R595)]


def test_what_a_revoked_validator_said_is_at_fault(site: Site, engine: Engine) -> None:
    site.revoke(Purpose.VERDICT)
    judgements = said(site, engine, ON_R595.driver)
    assert all("stolen laptop" in (one.fault or "") for one in judgements)


def test_verdicts_of_the_drivers_that_are_asked_about_are_read_together(
    site: Site, engine: Engine
) -> None:
    judgements = said(site, engine, ON_R595.driver, ON_R590.driver)
    with asked() as statements:
        assert [one.fault for one in judgements[:2]] == [None, None]
    assert len([one for one in statements if one.startswith("SELECT")]) == 1
    with asked() as statements:
        assert judgements[2].fault is None
    assert len([one for one in statements if one.startswith("SELECT")]) == 1


def test_a_verdict_that_was_swept_meanwhile_counts_no_more(site: Site, engine: Engine) -> None:
    judgements = said(site, engine, ON_R595.driver)
    site.tamper("delete from qualifications")
    site.tamper("delete from verdicts")
    assert judgements[0].fault == "the verdict is not recorded any more"
