"""A publish that dies between any two steps: nothing half-visible, and the next run completes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import ConflictError
from registry.service import Registry
from registry.types import Engine
from tests.factories.registry import CPU, Workbench, make_workbench, other
from tests.fakes.stores import DyingStore, Killed

# What publishing the first engine of a store writes, in this order; the row follows.
ENGINE_WRITES = [
    "document gathered.json", "blob config.json", "blob prefill.pt2", "document manifest.json",
    "document key.json", "document build-",
]  # fmt: skip


REFERENCE_WRITES = ["blob scores.safetensors", "document manifest.json", "document reference-"]


def dying(bench: Workbench, at: int, *, after: bool) -> tuple[Registry, DyingStore]:
    store = DyingStore(bench.registry.store, at, after)
    return replace(bench.registry, store=store), store


def test_the_order_is_blobs_manifest_signature(bench: Workbench) -> None:
    registry, store = dying(bench, 0, after=False)
    registry.publish_engine(bench.publication())
    assert len(store.writes) == len(ENGINE_WRITES)
    for written, expected in zip(store.writes, ENGINE_WRITES, strict=True):
        assert written.startswith(expected)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, len(REFERENCE_WRITES) + 1))
def test_a_reference_is_there_whole_or_not_at_all(
    bench: Workbench, at: int, *, after: bool
) -> None:
    publication = bench.reference()
    registry, store = dying(bench, at, after=after)
    with pytest.raises(Killed):
        registry.record_reference(publication)
    assert store.writes[-1].startswith(REFERENCE_WRITES[at - 1])
    assert bench.registry.references() == []
    reference = bench.registry.record_reference(publication)
    bench.registry.fetch_reference(reference, bench.directory / "out")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, len(ENGINE_WRITES) + 1))
def test_an_engine_is_there_whole_or_not_at_all(bench: Workbench, at: int, *, after: bool) -> None:
    publication = bench.publication()
    registry, _ = dying(bench, at, after=after)
    with pytest.raises(Killed):
        registry.publish_engine(publication)
    assert bench.registry.engines() == []
    engine = bench.registry.publish_engine(publication)
    bench.registry.fetch_engine(engine.digest, bench.directory / "out")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_verdict_counts_whole_or_not_at_all(bench: Workbench, at: int, *, after: bool) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    registry, _ = dying(bench, at, after=after)
    with pytest.raises(Killed):
        registry.record_verdict(engine.digest, document, envelope)
    assert bench.registry.gate(engine.digest, CPU).rule == "never-judged"
    bench.registry.record_verdict(engine.digest, document, envelope)
    assert bench.registry.gate(engine.digest, CPU).is_open


def _record_and_die(bench: Workbench, engine: Engine) -> None:
    with bench.registry.catalogue.edit() as draft:
        draft.add_engine(engine)
        raise Killed


def test_a_unit_of_work_that_dies_leaves_nothing(bench: Workbench) -> None:
    engine = bench.publish()
    with pytest.raises(Killed):
        _record_and_die(bench, replace(engine, digest=other(engine.digest)))
    assert bench.registry.engines() == [engine]


def test_another_provenance_of_the_same_bytes_keeps_the_first(bench: Workbench) -> None:
    first, second = bench.publication(), bench.publication()
    assert first.provenance != second.provenance
    engine = bench.registry.publish_engine(first)
    assert bench.registry.publish_engine(second) == engine
    envelopes = [n for n in bench.registry.store.list_documents("engines/") if "build-" in n]
    assert len(envelopes) == 2


def test_a_manifest_of_others_under_the_same_short_id_is_a_conflict(tmp_path: Path) -> None:
    bench = make_workbench(tmp_path)
    publication = bench.publication()
    folder = f"engines/smollm2-135m/w8a16/cpu/{publication.manifest.digest.short}"
    bench.registry.store.put_document(f"{folder}/manifest.json", b"{}")
    with pytest.raises(ConflictError):
        bench.registry.publish_engine(publication)
    assert bench.registry.engines() == []
