"""Whether an engine may be started: the registry first, then the evidence, and never neither."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from enginekeeper.compatibility.deployment import refusal
from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.placing import record
from enginekeeper.orchestration.run_check import check_run
from registry.bundles import FILES, write_directory
from registry.errors import IntegrityError, StoreUnavailableError
from registry.evidence import EVIDENCE, Evidence
from registry.evidence_gate import EvidenceGate
from registry.exchange import evidence_of
from registry.service import Registry
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    (variant,) = variants_of(tmp_path)
    found = site.publish(variant)
    site.judge(found, variant)
    return found


@pytest.fixture
def evidence(site: Site, engine: Engine) -> Evidence:
    return evidence_of(site.bench.registry, engine)


@pytest.fixture
def place(site: Site, evidence: Evidence, tmp_path: Path) -> Path:
    write_directory(site.bench.registry.store, evidence, tmp_path / "place")
    return tmp_path / "place"


def gate(site: Site) -> EvidenceGate:
    return EvidenceGate(site.bench.trust, refusal)


def test_evidence_and_registry_say_the_same(site: Site, engine: Engine, evidence: Evidence) -> None:
    here = site.bench.environment
    assert gate(site).decide(evidence, here) == site.bench.registry.gate(engine.digest, here)


@pytest.mark.parametrize(
    ("results", "rule"),
    [
        ((Result.FAIL,), "verdict-failed"),
        ((Result.FAIL, Result.PASS), "qualified"),
        ((Result.PASS, Result.INCONCLUSIVE), "verdict-inconclusive"),
    ],
)
def test_the_latest_verdict_of_the_evidence_counts(
    site: Site, engine: Engine, tmp_path: Path, results: tuple[Result, ...], rule: str
) -> None:
    for at, result in enumerate(results):
        site.judge(engine, variants_of(tmp_path)[0], result, note=at)
    found = gate(site).decide(evidence_of(site.bench.registry, engine), site.bench.environment)
    assert found.rule == rule


def test_the_order_of_the_evidence_is_nobodys_word(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL)
    evidence = evidence_of(site.bench.registry, engine)
    turned = replace(evidence, judgements=tuple(reversed(evidence.judgements)))
    assert gate(site).decide(turned, site.bench.environment).rule == "verdict-failed"


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_verdicts_of_one_moment_the_one_that_is_no_pass_counts(
    site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    then = site.bench.registry.verdicts(engine.digest)[0].issued_at
    stopped = SimpleNamespace(now=lambda _zone: then)
    monkeypatch.setattr("tests.factories.benches.datetime", stopped)
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL)
    evidence = evidence_of(site.bench.registry, engine)
    turned = replace(evidence, judgements=evidence.judgements[:: 1 if first else -1])
    assert gate(site).decide(turned, site.bench.environment).rule == "verdict-failed"


def test_evidence_without_a_verdict_opens_nothing(site: Site, evidence: Evidence) -> None:
    bare = replace(evidence, judgements=())
    assert gate(site).decide(bare, site.bench.environment).rule == "never-judged"


def test_a_statement_that_does_not_verify_is_never_left_out(site: Site, evidence: Evidence) -> None:
    (good,) = evidence.judgements
    forged = replace(evidence, judgements=(good, replace(good, document={"result": "pass"})))
    with pytest.raises(IntegrityError, match="verdict"):
        gate(site).decide(forged, site.bench.environment)


def test_a_revocation_that_nobody_trusted_signed_closes_too(site: Site, evidence: Evidence) -> None:
    with pytest.raises(IntegrityError, match="revocation"):
        gate(site).decide(replace(evidence, revocations=("{}",)), site.bench.environment)


def test_without_the_snapshot_that_is_asked_for_nothing_starts(
    site: Site, evidence: Evidence
) -> None:
    strict = replace(gate(site), trust=replace(site.bench.trust, snapshot_required=True))
    for kept, words in ((None, "no snapshot of the registry was kept"), (b"{}", "DSSE")):
        found = replace(strict, snapshot=kept).decide(evidence, site.bench.environment)
        assert (found.is_open, found.rule) == (False, "stale-snapshot")
        assert words in found.evidence[0]


def test_the_registry_decides_where_it_answers(site: Site, engine: Engine, place: Path) -> None:
    assert check_run(site.bench, place).source == "registry"
    site.judge(engine, variants_of(place.parent)[0], Result.FAIL)
    assert check_run(site.bench, place).decision.rule == "verdict-failed"
    offline = check_run(site.bench, place, offline=True)
    assert (offline.source, offline.decision.rule) == ("evidence", "qualified")


def test_a_registry_that_says_nothing_leaves_it_to_the_evidence(
    site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StoreUnavailableError("it is down")

    def silent(*_arguments: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(Registry, "gate", silent)
    found = check_run(site.bench, place)
    assert (found.source, found.decision.rule) == ("evidence", "qualified")
    assert str(error) in str(found.silence)


def test_an_integrity_error_of_the_registry_is_not_taken_for_silence(
    site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(*_arguments: object, **_more: object) -> None:
        raise IntegrityError("not what was signed")

    monkeypatch.setattr(Registry, "gate", tampered)
    with pytest.raises(IntegrityError):
        check_run(site.bench, place)


def test_a_link_is_followed_once_and_named(site: Site, place: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(place)
    found = check_run(site.bench, tmp_path / "current")
    assert found.directory == place / "engine"


def test_a_node_without_a_registry_is_not_given_one(
    site: Site, place: Path, tmp_path: Path
) -> None:
    settings = replace(site.bench.settings, catalogue_url=f"sqlite:///{tmp_path}/none.sqlite")
    bench = Bench(settings)
    vars(bench).update({name: vars(site.bench)[name] for name in ("host", "shop", "tools")})
    assert check_run(bench, place).source == "evidence"
    assert not (tmp_path / "none.sqlite").exists()


def test_a_check_that_does_not_ask_the_registry_makes_no_store(
    site: Site, place: Path, tmp_path: Path
) -> None:
    settings = replace(site.bench.settings, store_url=f"file://{tmp_path}/none")
    bench = Bench(settings)
    vars(bench).update({name: vars(site.bench)[name] for name in ("host", "shop", "tools")})
    assert check_run(bench, place, offline=True).source == "evidence"
    assert not (tmp_path / "none").exists()


def test_what_nobody_can_tell_is_not_started(site: Site, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no engine"):
        check_run(site.bench, tmp_path / "nothing")
    (tmp_path / "some").mkdir()
    with pytest.raises(MissingError, match="which engine"):
        check_run(site.bench, tmp_path / "some")


def test_an_engine_without_evidence_needs_its_registry(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.bench.registry.fetch_engine(engine.digest, tmp_path / "fetched")
    record(site.bench, engine.digest, tmp_path / "fetched")
    assert check_run(site.bench, tmp_path / "fetched").source == "registry"
    with pytest.raises(UnavailableError):
        check_run(site.bench, tmp_path / "fetched", offline=True)
    (tmp_path / "fetched" / "more").write_text("")
    with pytest.raises(IntegrityError):
        check_run(site.bench, tmp_path / "fetched")


def test_an_old_verdict_does_not_expire_with_time(site: Site, evidence: Evidence) -> None:
    later = replace(site.bench.trust, clock=lambda: site.bench.trust.clock() + timedelta(days=30))
    found = EvidenceGate(later, refusal).decide(evidence, site.bench.environment)
    assert found.rule == "qualified"


@pytest.mark.parametrize("damage", ["", "[]", '{"schema": 9}', '{"schema": 1, "key": null}'])
def test_evidence_that_is_none_starts_nothing_as_what_is_not_as_it_was_signed(
    site: Site, place: Path, damage: str
) -> None:
    (place / EVIDENCE).chmod(0o644)
    (place / EVIDENCE).write_text(damage)
    with pytest.raises(IntegrityError, match="the evidence cannot be read"):
        check_run(site.bench, place)


def test_evidence_alone_is_no_engine(site: Site, place: Path) -> None:
    shutil.rmtree(place / FILES)
    with pytest.raises(MissingError, match="there is no engine"):
        check_run(site.bench, place)
