"""What is said of an engine follows its bytes, wherever they lie."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry import exchange, layout
from registry.attestations import BuildRecord, provenance, sign
from registry.backups.backup import backup, restore
from registry.bundles import write_bundle
from registry.errors import GateClosedError, IntegrityError
from registry.evidence import Evidence
from registry.exchange import evidence_of, import_bundle
from registry.lifecycle import revoke
from registry.publishing import EnginePublication
from registry.retention import RetentionPolicy
from registry.scrubbing import scrub
from registry.service import Registry
from registry.statements import statements_of
from registry.sweeping import plan_sweep, sweep
from registry.transfer import load_manifest
from registry.trust import KeyRevocation, Purpose
from registry.types import Engine, EngineNames, Result
from registry.verification import build_parameters
from tests.factories.registry import (
    CPU,
    START,
    WEIGHTS,
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


def as_before(bench: Workbench, engine: Engine, target: str = "cpu") -> None:
    """Puts all that is signed of an engine into its folder, where the version before had it."""
    store, folder = bench.registry.store, layout.statement_folder(engine.digest)
    path = engine.path.replace("/cpu/", f"/{target}/")
    for name in list(store.list_documents(folder)):
        last = name.removeprefix(folder)
        then = last if last.startswith("verdicts/") else f"attestations/{last}"
        store.put_document(f"{path}/{then}", store.get_document(name))
        store.remove_document(name)


def swept_before(bench: Workbench, engine: Engine) -> None:
    """Leaves of an engine what a sweep of the version before did, in a store it wrote alone."""
    swept(bench)
    as_before(bench, engine)
    store = bench.registry.store
    store.remove_document(layout.GATHERED)
    assert list(store.list_documents(f"{layout.STATEMENTS}/")) == []


def publication(bench: Workbench, driver: str, target: str) -> EnginePublication:
    """Builds the same bytes for a target of another name."""
    made = bench.publication(driver=driver)
    names = EngineNames("smollm2-135m", made.recipe, target, made.variant)
    record = BuildRecord(
        "urn:test:builder", "run-2", bench.clock(), bench.clock(),
        parameters=build_parameters(names, WEIGHTS),
    )  # fmt: skip
    signed = sign(provenance(made.manifest, made.key, record), bench.signers.builder)
    return replace(made, target=target, provenance=signed)


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


@pytest.mark.parametrize("by", ["revocation", "verdict"])
@pytest.mark.parametrize(("driver", "target"), [(OLD, "cpu"), (NEW, "cpu"), (NEW, "cpu-avx512")])
def test_what_a_sweep_from_before_left_in_an_engines_folder_is_found(
    bench: Workbench, driver: str, target: str, by: str
) -> None:
    engine = judged(bench, OLD)
    if by == "revocation":
        revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    else:
        bench.judge(engine, Result.FAIL)
    swept_before(bench, engine)
    again = bench.registry.publish_engine(publication(bench, driver, target))
    assert again.digest == engine.digest
    assert rule(bench, again) == ("revoked" if by == "revocation" else "verdict-failed")
    assert scrub(bench.registry).wrong == []  # the documents of verdicts are there, too
    assert evidence_of(bench.registry, again).names.target == target


def test_what_is_no_envelope_holds_the_bytes_from_an_old_folder_as_well(bench: Workbench) -> None:
    engine, store = judged(bench, OLD), bench.registry.store
    swept_before(bench, engine)
    junk = f"{engine.path}/attestations/quarantine-000000000000.dsse.json"
    store.put_document(junk, b"\xff junk")
    again = bench.registry.publish_engine(publication(bench, NEW, "cpu-avx512"))
    assert rule(bench, again) == "quarantined"


def test_old_folders_are_read_by_the_first_publish_and_by_every_scrub(bench: Workbench) -> None:
    engine, store = judged(bench, OLD), bench.registry.store
    inherited = layout.inheritance_folder(engine.digest.short)
    as_before(bench, engine, "cpu-avx512")
    bench.publish(content=b"another")  # not the first one here
    assert list(store.list_documents(inherited)) == []
    scrub(bench.registry)
    gathered = {Path(name).name.partition("-")[0] for name in store.list_documents(inherited)}
    assert gathered > {"verdict"}  # and its document
    assert "build" not in gathered
    assert len(list(store.list_documents(layout.statement_folder(engine.digest)))) == len(gathered)


def test_a_recorded_engine_that_is_published_again_inherits_from_folders_of_before(
    bench: Workbench,
) -> None:
    engine, store = judged(bench, OLD), bench.registry.store
    as_before(bench, engine, "cpu-avx512")
    store.remove_document(layout.GATHERED)
    bench.registry.publish_engine(publication(bench, OLD, "cpu"))
    assert list(store.list_documents(layout.statement_folder(engine.digest)))


def test_a_sweep_keeps_what_lies_in_a_folder_though_the_store_was_gathered(
    bench: Workbench,
) -> None:
    engine = judged(bench, OLD)
    bench.judge(engine, Result.FAIL)
    as_before(bench, engine)  # by a writer of the version before, who is still about
    swept(bench)
    again = bench.registry.publish_engine(publication(bench, NEW, "cpu-avx512"))
    assert rule(bench, again) == "verdict-failed"


def test_verdicts_that_a_catalogue_lost_have_their_documents_where_stores_from_before_do(
    bench: Workbench, tmp_path: Path
) -> None:
    url, engine = bench.registry.catalogue.url, bench.publish()
    backup(url, tmp_path / "kept")
    bench.judge(engine)
    as_before(bench, engine)
    restore(tmp_path / "kept", url, overwrite=True)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert len(evidence_of(bench.registry, engine).judgements) == 1
    assert scrub(bench.registry).findings == []


def test_a_scrub_finds_the_document_of_a_verdict_in_its_engines_folder(bench: Workbench) -> None:
    engine = judged(bench, OLD)
    as_before(bench, engine)  # the row names the new place
    (found,) = scrub(bench.registry).findings
    assert found.mended
    assert scrub(bench.registry).findings == []
    assert len(evidence_of(bench.registry, engine).judgements) == 1


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


def test_a_restored_registry_carries_what_its_catalogue_lost(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    engine, url = judged(bench, OLD), bench.registry.catalogue.url
    waiver = bench.waive(engine, "verdict-failed")
    backup(url, tmp_path / "kept")
    bench.judge(engine, Result.FAIL)
    bench.end(waiver)
    restore(tmp_path / "kept", url, overwrite=True)
    import_bundle(elsewhere.registry, carried(bench, engine, tmp_path / "b"), tmp_path / "scratch")
    assert rule(elsewhere, engine) == "verdict-failed"
    assert len(bench.registry.verdicts(engine.digest)) == 1  # carrying it changes nothing here


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
    as_before(bench, engine)
    before = set(store.list_documents(engine.path))
    swept(bench, orphans=True)
    gone = {f"{engine.path}/{one}" for one in (layout.MANIFEST, layout.KEY)}
    left = set(store.list_documents(engine.path))
    assert {name for name in before - left if "/attestations/build-" not in name} == gone
    assert len(statements_of(store, engine).names(Purpose.VERDICT)) == 1
