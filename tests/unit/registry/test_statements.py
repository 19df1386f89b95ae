"""What is said of an engine follows its bytes, wherever they lie."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry import exchange, layout
from registry.bundles import write_bundle
from registry.errors import GateClosedError, IntegrityError
from registry.evidence import Evidence
from registry.exchange import evidence_of, import_bundle
from registry.lifecycle import revoke
from registry.retention import RetentionPolicy
from registry.scrubbing import scrub
from registry.service import Registry
from registry.statements import statements_of
from registry.sweeping import plan_sweep, sweep
from registry.transfer import load_manifest
from registry.trust import KeyRevocation, Purpose
from registry.types import Engine, Result
from tests.factories.registry import (
    CPU,
    START,
    Signers,
    Workbench,
    make_workbench,
    with_registry,
)

OLD, NEW = "580.95.05", "590.44.01"
NOW = RetentionPolicy(grace=timedelta(days=-1), per_key=0)
"""Nothing is young, and nothing is kept for its key."""


@pytest.fixture
def elsewhere(bench: Workbench, tmp_path: Path) -> Workbench:
    """Another registry, with the same trust and the same signers."""
    other = replace(make_workbench(tmp_path / "elsewhere"), signers=bench.signers)
    return with_registry(other, trust=bench.signers.trust)


def judged(bench: Workbench, driver: str) -> Engine:
    """Publishes the same bytes, as built under some driver, and passes them."""
    engine = bench.publish(driver=driver)
    bench.judge(engine)
    return engine


def swept(bench: Workbench, *, orphans: bool = False) -> None:
    sweep(bench.registry, plan_sweep(bench.registry, NOW, orphans=orphans))


def carried(bench: Workbench, engine: Engine, path: Path) -> Path:
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), path)
    return path


def rule(bench: Workbench, engine: Engine) -> str:
    return bench.registry.gate(engine.digest, CPU).rule


@pytest.mark.parametrize("driver", [OLD, NEW])
def test_revoked_bytes_that_were_swept_come_back_revoked(bench: Workbench, driver: str) -> None:
    engine = judged(bench, OLD)
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    swept(bench)
    again = judged(bench, driver)
    assert (again.digest, rule(bench, again)) == (engine.digest, "revoked")
    with pytest.raises(GateClosedError, match="revoked"):
        bench.registry.set_channel("prod", again.digest, CPU, actor="anna")


@pytest.mark.parametrize("driver", [OLD, NEW])
def test_what_a_sweep_from_before_left_in_a_drivers_folder_is_found(
    bench: Workbench, driver: str
) -> None:
    engine, store = judged(bench, OLD), bench.registry.store
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    (name,) = statements_of(store, engine).names(Purpose.REVOCATION)
    store.put_document(f"{engine.path}/attestations/{Path(name).name}", store.get_document(name))
    store.remove_document(name)
    swept(bench)
    assert rule(bench, judged(bench, driver)) == "revoked"


def test_a_revocation_that_is_carried_closes_the_gate_whatever_the_driver_here(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    here, there = judged(elsewhere, OLD), judged(bench, NEW)
    revoke(bench.registry, there, "wrong tokens", bench.signers.revoker)
    import_bundle(elsewhere.registry, carried(bench, there, tmp_path / "b"), tmp_path / "scratch")
    assert (here.digest, rule(elsewhere, here)) == (there.digest, "revoked")


def test_the_end_of_a_waiver_that_is_carried_counts_whatever_the_driver_here(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    here, there = elsewhere.publish(driver=OLD), bench.publish(driver=NEW)
    waiver = bench.waive(there, "never-judged")
    elsewhere.registry.grant_waiver(here.digest, waiver.envelope.encode())
    bench.end(waiver)
    import_bundle(elsewhere.registry, carried(bench, there, tmp_path / "b"), tmp_path / "scratch")
    assert rule(elsewhere, here) == "never-judged"


def test_a_verdict_that_is_carried_stays_with_an_engine_that_lies_elsewhere(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    here, there = elsewhere.publish(driver=OLD), judged(bench, NEW)
    import_bundle(elsewhere.registry, carried(bench, there, tmp_path / "b"), tmp_path / "scratch")
    elsewhere.registry.set_channel("prod", here.digest, CPU, actor="anna")
    swept(elsewhere, orphans=True)
    assert scrub(elsewhere.registry).wrong == []
    assert len(evidence_of(elsewhere.registry, here).judgements) == 1


def test_a_recorded_engine_is_put_back_where_it_is_recorded(bench: Workbench) -> None:
    engine = bench.publish(driver=OLD)
    bench.registry.store.remove_document(f"{engine.path}/{layout.MANIFEST}")
    assert bench.publish(driver=NEW).path == engine.path
    load_manifest(bench.registry.store, engine.path, engine.digest)  # raises without one
    names = bench.registry.store.list_documents("engines/")
    assert [name for name in names if not name.startswith(engine.path)] == []


def test_whoever_is_recorded_meanwhile_under_another_driver_has_the_manifest_too(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.publication(driver=OLD)
    engine = bench.registry.publish_engine(first)
    bench.registry.store.remove_document(f"{engine.path}/{layout.MANIFEST}")
    monkeypatch.setattr("registry.queries.View.place_of", lambda _view, _engine: None)
    bench.publish(driver=NEW)  # as who looked before the other was recorded
    load_manifest(bench.registry.store, engine.path, engine.digest)  # raises without one


@pytest.mark.parametrize("layer", ["soft", "info"])
def test_the_layers_that_no_digest_covers_are_those_that_were_signed(
    bench: Workbench, layer: str, tmp_path: Path
) -> None:
    evidence = evidence_of(bench.registry, bench.publish(driver=OLD))
    forged = replace(evidence, key=replace(evidence.key, **{layer: {"driver": "1.2.3"}}))
    write_bundle(bench.registry.store, forged, tmp_path / "b")
    with pytest.raises(IntegrityError, match=f"(?s)build does not verify.*{layer} .*1.2.3"):
        import_bundle(bench.registry, tmp_path / "b", tmp_path / "scratch")


def test_an_engine_that_is_signed_anew_has_the_layers_of_its_new_statement(
    bench: Workbench,
) -> None:
    bench.publish(driver=OLD)
    signers = replace(bench.signers, builder=Signers().builder)
    gone = KeyRevocation(bench.signers.builder.public_key.keyid, "stolen", START)
    again = with_registry(bench, trust=replace(signers.trust, revocations=(gone,)))
    renewed = replace(again, signers=signers).publish(driver=NEW)
    assert renewed.key.soft["driver"] == NEW
    again.registry.verify_engine(again.registry.engine(renewed.digest))  # raises if it is not so


def test_what_failed_stays_failed_when_its_bytes_are_swept_and_brought_back(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = judged(bench, OLD)
    bundle = carried(bench, engine, tmp_path / "from before")
    bench.judge(engine, Result.FAIL)
    swept(bench)
    done = import_bundle(bench.registry, bundle, tmp_path / "scratch")
    assert (done.engine.digest, rule(bench, done.engine)) == (engine.digest, "verdict-failed")
    assert scrub(bench.registry).wrong == []  # the document of the verdict is there, too


def test_a_fail_that_was_recorded_after_a_later_pass_counts_when_its_bytes_are_brought_back(
    bench: Workbench,
) -> None:
    engine = bench.publish(driver=OLD)
    late = bench.verdict_on(engine, Result.FAIL)
    bench.judge(engine)
    bench.registry.record_verdict(engine.digest, *late)
    swept(bench)
    bench.publish(driver=OLD)
    assert rule(bench, engine) == "verdict-failed"
    bench.judge(engine, more={"run": 2})
    assert rule(bench, engine) == "qualified"


def test_a_sweep_beside_an_import_takes_nothing_of_what_was_said(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = judged(bench, OLD)
    bundle = carried(bench, engine, tmp_path / "b")
    plan, put = plan_sweep(bench.registry, NOW), exchange._Statements.put_beside

    def put_and_swept(statements: exchange._Statements, registry: Registry) -> None:
        put(statements, registry)
        sweep(bench.registry, plan)

    monkeypatch.setattr(exchange._Statements, "put_beside", put_and_swept)
    import_bundle(bench.registry, bundle, tmp_path / "scratch")
    assert rule(bench, engine) == "qualified"
    assert scrub(bench.registry).wrong == []
    evidence: Evidence = evidence_of(bench.registry, engine)
    assert len(evidence.judgements) == 1


def test_a_sweep_leaves_what_stores_from_before_have_in_an_engines_folder(
    bench: Workbench,
) -> None:
    engine = judged(bench, OLD)
    store = bench.registry.store
    for name in list(store.list_documents(layout.statement_folder(engine.digest))):
        last = name.removeprefix(layout.statement_folder(engine.digest))
        then = last if last.startswith("verdicts/") else f"attestations/{last}"
        store.put_document(f"{engine.path}/{then}", store.get_document(name))
        store.remove_document(name)
    before = set(store.list_documents(engine.path))
    swept(bench, orphans=True)
    gone = {f"{engine.path}/{one}" for one in (layout.MANIFEST, layout.KEY)}
    left = set(store.list_documents(engine.path))
    assert {name for name in before - left if "/attestations/build-" not in name} == gone
    assert len(statements_of(store, engine).names(Purpose.VERDICT)) == 1
