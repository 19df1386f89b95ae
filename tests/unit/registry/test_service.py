"""The registry as its users see it: publish, look up, judge, hand out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry import queries
from registry.blobs.interface import blob_name
from registry.digests import Digest
from registry.environments import CpuEnvironment, DriverScope
from registry.errors import (
    AmbiguousIdError,
    ConflictError,
    GateClosedError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.manifests import Manifest, verify_directory
from registry.publishing import CheckpointPublication
from registry.trust import Trust
from registry.types import Engine, EngineFilter, Repair, Result
from tests.factories.registry import (
    CPU,
    H100,
    WEIGHTS,
    Workbench,
    cpu_key,
    other,
    with_registry,
)
from tests.fakes.statements import asked

REPAIR = Repair("rope-base", "config.json: rotary_base", None, 100000.0, "ModelOpt leaves it out")


def test_a_published_engine_is_found_by_the_start_of_its_id(bench: Workbench) -> None:
    engine = bench.publish()
    for start in (4, 12, 64):
        assert bench.registry.engine(engine.digest.value[:start]) == engine
    assert bench.registry.engine(str(engine.digest)).as_dict()["key_digest"] == str(
        cpu_key().digest()
    )


def test_publishing_twice_is_publishing_once(bench: Workbench) -> None:
    first, again = bench.publish(), bench.publish()
    assert again == first
    assert len(bench.registry.engines()) == 1


def test_a_key_may_hold_several_contents(bench: Workbench) -> None:
    one, two = bench.publish(content=b"one"), bench.publish(content=b"two")
    found = bench.registry.engines(EngineFilter(key=cpu_key().digest()))
    assert [engine.digest for engine in found] == [two.digest, one.digest]


def test_the_same_bytes_for_another_key_are_another_engine(bench: Workbench) -> None:
    assert bench.publish().digest != bench.publish(calibration="sha256:1").digest


def test_an_engine_of_an_older_key_is_found_verified_and_let_through(
    bench: Workbench, tmp_path: Path
) -> None:
    old, new = bench.publish(), bench.publish(builder_lock="sha256:1")
    assert (old.key.scheme, new.key.scheme) == ("ek-key-v1", "ek-key-v2")
    for engine in (old, new):
        bench.judge(engine)
        assert bench.registry.engines(EngineFilter(key=engine.key.digest())) == [engine]
        assert bench.registry.fetch_engine(engine.digest, tmp_path / engine.digest.short) == engine
        assert bench.registry.gate(engine.digest, CPU).is_open


def test_an_ambiguous_id_is_an_error_that_lists_the_candidates(bench: Workbench) -> None:
    engines = {bench.publish(content=str(n).encode()).digest for n in range(2)}
    view_id = "sha256:" + "abcd" + "0" * 60
    with bench.registry.catalogue.edit() as draft:
        template = draft.engine(next(iter(engines)))
        for last in "12":
            twin = replace(template, digest=Digest.parse(view_id[:-1] + last))
            draft.add_engine(twin)
    with pytest.raises(AmbiguousIdError, match="abcd00000000, abcd00000000"):
        bench.registry.engine("abcd")
    assert bench.registry.engine(view_id[:-1] + "1").digest.value.endswith("1")


@pytest.mark.parametrize("reference", ["abc", "xyz1", "", "sha256:", "../etc", "%", "abcd_"])
def test_what_is_no_id_is_said_to_be_none(bench: Workbench, reference: str) -> None:
    with pytest.raises(InvalidRecordError):
        bench.registry.engine(reference)


def test_a_model_named_by_another_scheme_is_found(bench: Workbench) -> None:
    digest = Digest("ek-weights-v1", "ab" * 32)
    model = bench.registry.record_model(digest, "m", source="s", architecture="a")
    with bench.registry.catalogue.read() as view:
        assert view.model(digest) == view.model("ek-weights-v1:abab") == model
        assert view.models()[0] == model
        with pytest.raises(RecordNotFoundError):
            view.model(str(other(WEIGHTS)))


def test_an_unknown_id_is_not_found(bench: Workbench) -> None:
    with pytest.raises(RecordNotFoundError):
        bench.registry.engine("abcdef")


def test_engines_are_filtered_by_what_they_are_and_where_they_passed(bench: Workbench) -> None:
    real, simulated = bench.publish(), bench.publish(simulated=True)
    bench.judge(real)
    bench.judge(simulated, Result.FAIL)
    registry = bench.registry

    def found(**wanted: object) -> list[str]:
        engines = registry.engines(EngineFilter(**wanted))  # type: ignore[arg-type]
        return [str(engine.digest) for engine in engines]

    assert found(model="smollm2-135m") == [str(simulated.digest), str(real.digest)]
    assert found(simulated=True) == found(builder="simulated") == [str(simulated.digest)]
    assert found(environment=CPU) == [str(real.digest)]
    assert found(environment=H100) == found(model="other") == found(recipe="fp8") == []
    assert len(found(target="cpu", recipe="w8a16", variant="smollm2-135m.w8a16.tp1.cpu")) == 2


def test_a_fetched_engine_is_the_published_one(bench: Workbench, tmp_path: Path) -> None:
    publication = bench.publication()
    engine = bench.registry.publish_engine(publication)
    bench.registry.fetch_engine(engine.digest.short, tmp_path / "out" / "engine")
    verify_directory(publication.manifest, tmp_path / "out" / "engine")
    bench.registry.fetch_engine(engine.digest, tmp_path / "out" / "engine")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["engine"]


def _swap_blob(bench: Workbench) -> None:
    blob = bench.registry.store.url.removeprefix("file://")
    path = next(p for p in Path(blob, "blobs").rglob("*") if p.is_file())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _edit_manifest(bench: Workbench) -> None:
    (engine,) = bench.registry.engines()
    path = Path(bench.registry.store.url.removeprefix("file://"), engine.path, "manifest.json")
    document = json.loads(path.read_bytes())
    document["files"][0]["path"] = "../../escape"
    path.chmod(0o644)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("forge", [_swap_blob, _edit_manifest])
def test_nothing_forged_in_the_store_is_handed_out(
    bench: Workbench, tmp_path: Path, forge: object
) -> None:
    engine = bench.publish()
    assert callable(forge)
    forge(bench)
    with pytest.raises(IntegrityError):
        bench.registry.fetch_engine(engine.digest, tmp_path / "out" / "engine")
    assert list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else []) == []


def test_an_engine_of_a_builder_no_longer_trusted_is_not_handed_out(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    distrusting = with_registry(bench, trust=Trust())
    with pytest.raises(IntegrityError, match="signature does not count"):
        distrusting.registry.fetch_engine(engine.digest, tmp_path / "out")


def test_an_engine_signed_by_the_validator_is_not_published(bench: Workbench) -> None:
    wrong = replace(bench.signers, builder=bench.signers.validator)
    with pytest.raises(IntegrityError, match="signature does not count"):
        replace(bench, signers=wrong).publish()
    assert bench.registry.engines() == []
    assert list(bench.registry.store.list_documents()) == []


def test_an_engine_whose_key_is_not_the_signed_one_is_not_published(bench: Workbench) -> None:
    publication = bench.publication()
    key = cpu_key(calibration="sha256:2")
    manifest = Manifest.of_directory(publication.directory, "engine", key=key.digest())
    with pytest.raises(InvalidRecordError, match="not that of an engine of this key"):
        bench.registry.publish_engine(replace(publication, key=key))
    with pytest.raises(IntegrityError, match="another artifact"):
        bench.registry.publish_engine(replace(publication, key=key, manifest=manifest))


def test_a_file_that_changed_after_signing_is_not_published(bench: Workbench) -> None:
    publication = bench.publication()
    (publication.directory / "config.json").write_text("{}")
    with pytest.raises(IntegrityError):
        bench.registry.publish_engine(publication)
    assert bench.registry.engines() == []


def test_a_checkpoint_keeps_its_repairs(bench: Workbench) -> None:
    directory = bench.publication().directory
    publication = CheckpointPublication(directory, WEIGHTS, "w8a16", repairs=(REPAIR,))
    checkpoint = bench.registry.publish_checkpoint(publication)
    assert bench.registry.publish_checkpoint(publication) == checkpoint
    assert bench.registry.checkpoint(checkpoint.digest.short).repairs == (REPAIR,)
    json.dumps(checkpoint.as_dict())


def test_the_same_checkpoint_with_other_facts_is_a_conflict(bench: Workbench) -> None:
    publication = CheckpointPublication(bench.publication().directory, WEIGHTS, "w8a16")
    bench.registry.publish_checkpoint(publication)
    with pytest.raises(ConflictError, match="other facts"):
        bench.registry.publish_checkpoint(replace(publication, repairs=(REPAIR,)))


def test_a_real_engine_cannot_come_from_a_simulated_checkpoint(bench: Workbench) -> None:
    publication = bench.publication()
    checkpoint = bench.registry.publish_checkpoint(
        CheckpointPublication(publication.directory, WEIGHTS, "w8a16", simulated=True)
    )
    with pytest.raises(InvalidRecordError, match="is simulated"):
        bench.registry.publish_engine(replace(publication, checkpoint=checkpoint.digest))


def test_a_verdict_keeps_its_evidence(bench: Workbench) -> None:
    engine = bench.publish()
    verdict = bench.judge(engine, Result.FAIL)
    assert bench.registry.verdicts(engine.digest) == [verdict]
    assert bench.registry.verdict_document(verdict)["summary"] == verdict.summary
    assert (verdict.fidelity, verdict.quality) == ("fail", "pass")
    assert bench.registry.qualifications() == []


def test_a_verdict_document_that_was_not_signed_is_refused(bench: Workbench) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine, Result.FAIL)
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        bench.registry.record_verdict(engine.digest, {**document, "result": "pass"}, envelope)
    assert bench.registry.verdicts(engine.digest) == []


def test_a_replayed_verdict_is_not_the_latest_one(bench: Workbench) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    bench.registry.record_verdict(engine.digest, document, envelope)
    bench.judge(engine, Result.FAIL)
    bench.registry.record_verdict(engine.digest, document, envelope)
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"
    assert [one.current for one in bench.registry.qualifications(engine.digest)] == [False]


def test_a_replayed_pass_in_another_envelope_opens_nothing(bench: Workbench) -> None:
    engine = bench.publish()
    late = bench.verdict_on(engine, Result.FAIL)
    document, envelope = bench.verdict_on(engine)
    for again in (envelope, envelope + b"\n"):
        bench.registry.record_verdict(engine.digest, document, again)
    bench.registry.record_verdict(engine.digest, *late)
    with pytest.raises(ConflictError, match="later verdict"):
        bench.registry.record_verdict(engine.digest, document, envelope + b" ")
    bench.registry.record_verdict(engine.digest, document, envelope)
    assert bench.registry.gate(engine.digest, CPU).rule == "verdict-failed"


def test_a_pass_cannot_be_backdated_over_a_later_verdict(bench: Workbench) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    bench.judge(engine, Result.FAIL)
    with pytest.raises(ConflictError, match="a later verdict"):
        bench.registry.record_verdict(engine.digest, document, envelope)


def test_passes_of_two_validators_at_once_are_recorded_in_any_order(bench: Workbench) -> None:
    engine = bench.publish()
    first, second = bench.verdict_on(engine), bench.verdict_on(engine)
    for document, envelope in (second, first):
        bench.registry.record_verdict(engine.digest, document, envelope)
    assert len(bench.registry.verdicts(engine.digest)) == 2
    assert bench.registry.gate(engine.digest, CPU).is_open


def test_a_channel_takes_only_what_the_gate_lets_through(bench: Workbench) -> None:
    engine = bench.publish()
    with pytest.raises(GateClosedError, match="no verdict"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert bench.registry.channels() == []
    bench.judge(engine)
    position = bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert bench.registry.channels("smollm2-135m") == [position]


def test_a_channel_keeps_its_history(bench: Workbench) -> None:
    engines = [bench.publish(content=content) for content in (b"1", b"2")]
    for engine in engines:
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    moves = bench.registry.channel_history("prod", "smollm2-135m")
    assert [(move.engine, move.previous) for move in moves] == [
        (engines[1].digest, engines[0].digest), (engines[0].digest, None),
    ]  # fmt: skip
    json.dumps([move.as_dict() for move in moves])


def test_simulated_engines_have_channels_of_their_own(bench: Workbench) -> None:
    real, simulated = bench.publish(), bench.publish(simulated=True)
    for engine in (real, simulated):
        bench.judge(engine)
    bench.registry.set_channel("prod", real.digest, CPU, actor="anna")
    bench.registry.set_channel("lab", simulated.digest, CPU, actor="anna")
    with pytest.raises(ConflictError, match="do not share a channel"):
        bench.registry.set_channel("prod", simulated.digest, CPU, actor="anna")


def test_the_gate_reads_the_statement_of_an_engine_once(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.waive(engine, "verdict-failed")
    with asked() as statements:
        bench.registry.gate(engine.digest, CPU)
    assert sum("provenance" in one for one in statements) == 1


def test_a_wider_driver_scope_reaches_the_gate(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine, environment=H100)
    patched = replace(H100, driver="580.126.01")
    wide = with_registry(bench, driver_scope=DriverScope.BRANCH)
    assert not bench.registry.gate(engine.digest, patched).is_open
    assert wide.registry.gate(engine.digest, patched).is_open


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(bench: Workbench, name: str) -> None:
    with pytest.raises(InvalidRecordError):
        bench.registry.record_model(other(WEIGHTS), name, source="", architecture="")
    with pytest.raises(InvalidRecordError):
        bench.registry.publish_engine(replace(bench.publication(), target=name))


def test_a_checkpoint_comes_back_whole(bench: Workbench, tmp_path: Path) -> None:
    directory = bench.publication().directory
    checkpoint = bench.registry.publish_checkpoint(
        CheckpointPublication(directory, WEIGHTS, "w8a16")
    )
    bench.registry.fetch_checkpoint(checkpoint.digest.short, tmp_path / "checkpoint")
    verify_directory(Manifest.of_directory(directory, "checkpoint"), tmp_path / "checkpoint")
    with bench.registry.catalogue.read() as view:
        assert view.checkpoints() == [checkpoint]


def test_evidence_that_was_swapped_in_the_store_is_noticed(bench: Workbench) -> None:
    verdict = bench.judge(bench.publish(), Result.FAIL)
    address = bench.registry.locate(verdict.path)
    bench.registry.store.put_document(verdict.path, b'{"result":"pass"}', if_absent=False)
    with pytest.raises(IntegrityError, match="not the one that was signed") as caught:
        bench.registry.verdict_document(verdict)
    assert caught.value.where == address
    with bench.registry.catalogue.read() as view:
        assert view.verdict(verdict.digest.short) == verdict


def test_a_place_that_cannot_be_written_is_said_plainly(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailableError):
        bench.registry.fetch_engine(engine.digest, tmp_path / "file" / "engine")


def test_a_directory_with_other_files_is_not_taken_for_the_engine(
    bench: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(IntegrityError):
        bench.registry.fetch_engine(engine.digest, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"


def test_a_simulated_builder_cannot_make_a_real_engine(bench: Workbench) -> None:
    with pytest.raises(InvalidRecordError, match="simulated engines"):
        bench.publish(builder="simulated")


def _blob(bench: Workbench, engine: Engine) -> Path:
    digest = bench.registry.manifest(engine).files[-1].digest
    path = Path(bench.registry.store.url.removeprefix("file://"), blob_name(digest))
    path.chmod(0o644)
    return path


def _damage(path: Path) -> None:
    path.write_bytes(b"evil!!")


@pytest.mark.parametrize("harm", [_damage, Path.unlink])
def test_publishing_again_puts_back_what_the_store_lost(
    bench: Workbench, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    publication = bench.publication()
    engine = bench.registry.publish_engine(publication)
    harm(_blob(bench, engine))
    bench.registry.publish_engine(publication)
    bench.registry.fetch_engine(engine.digest, tmp_path / "out")


@pytest.mark.parametrize("harm", [_damage, Path.unlink])
def test_an_engine_is_healed_from_a_good_copy_only(
    bench: Workbench, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    engine = bench.publish()
    bench.registry.fetch_engine(engine.digest, tmp_path / "copy")
    harm(_blob(bench, engine))
    other = bench.publication(content=b"another").directory
    with pytest.raises(IntegrityError, match="does not hold this engine"):
        bench.registry.heal_engine(engine.digest, other)
    assert bench.registry.heal_engine(engine.digest, tmp_path / "copy") == ["graphs/prefill.pt2"]
    assert bench.registry.heal_engine(engine.digest, tmp_path / "copy") == []
    bench.registry.fetch_engine(engine.digest, tmp_path / "out")


def test_a_manifest_that_was_changed_is_healed(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish()
    bench.registry.fetch_engine(engine.digest, tmp_path / "copy")
    _edit_manifest(bench)
    assert bench.registry.heal_engine(engine.digest, tmp_path / "copy") == ["manifest.json"]


def test_bad_bytes_never_take_the_place_of_damaged_ones(bench: Workbench) -> None:
    publication = bench.publication()
    engine = bench.registry.publish_engine(publication)
    blob = _blob(bench, engine)
    _damage(blob)
    (publication.directory / "graphs" / "prefill.pt2").write_bytes(b"worse")
    with pytest.raises(IntegrityError):
        bench.registry.publish_engine(publication)
    assert blob.read_bytes() == b"evil!!"


def test_an_engine_with_a_lost_file_gets_into_no_channel(bench: Workbench, tmp_path: Path) -> None:
    engine = bench.publish()
    bench.judge(engine)
    _blob(bench, engine).unlink()
    with pytest.raises(IntegrityError, match="not in the artifact store"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert bench.registry.channels() == []
    with pytest.raises(IntegrityError, match="engine heal"):
        bench.registry.fetch_engine(engine.digest, tmp_path / "out")


def test_a_recorded_engine_without_its_manifest_is_an_integrity_failure(bench: Workbench) -> None:
    engine = bench.publish()
    folder = Path(bench.registry.store.url.removeprefix("file://"), engine.path)
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="the manifest is recorded"):
        bench.registry.manifest(engine)


@pytest.mark.parametrize("together", [1, 2, 10_000])
def test_of_each_engine_the_newest_verdict_counts_wherever_it_was_judged(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(queries, "_TOGETHER", together)
    engines = [bench.publish(content=content) for content in (b"1", b"2", b"3", b"4")]
    older = CpuEnvironment(("avx2",), "2.12.0")
    for engine in engines[:3]:
        bench.judge(engine)
        bench.judge(engine, Result.FAIL, older)
    expected = {one.digest: bench.registry.verdicts(one.digest)[0] for one in engines[:3]}
    assert bench.registry.latest_verdicts(engines) == expected
    assert {one.environment for one in expected.values()} == {older}
    assert bench.registry.latest_verdicts([]) == {}


def test_each_engine_has_its_own_waivers_that_are_in_force(bench: Workbench) -> None:
    one, two, three = (bench.publish(content=content) for content in (b"1", b"2", b"3"))
    bench.end(bench.waive(one, "verdict-inconclusive"))
    first, second = (bench.waive(one, rule) for rule in ("verdict-failed", "never-judged"))
    bench.waive(two, "never-judged")
    found = bench.registry.waivers_in_force([one, three])
    assert found == {one.digest: [second, first], three.digest: []}
    assert bench.registry.waivers_in_force([one], [first]) == {one.digest: [first]}


def test_a_waiver_that_says_something_else_than_was_signed_is_not_in_force(
    bench: Workbench,
) -> None:
    engine = bench.publish()
    granted = bench.waive(engine, "never-judged")
    forged = replace(granted, granted_by="eve")
    assert bench.registry.waivers_in_force([engine], [forged]) == {engine.digest: []}
