"""Publishing: what is signed is what happened, once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginekeeper.building.inductor import InductorBuilder
from enginekeeper.building.interface import BuildRequest, BuiltEngine
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.publication import BuildRun, publish
from enginekeeper.orchestration.stages import Checkpoint, Compilation
from enginekeeper.specs.variants import Variant
from registry.digests import digest_bytes
from registry.errors import IntegrityError
from registry.trust import Purpose
from registry.types import Repair
from tests.factories.benches import RUN, Site, variants_of

REPAIR = Repair("rope", "config.json: rotary_base", None, 100000.0, "ModelOpt leaves it out")


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    return variants_of(tmp_path)[0]


def envelopes(site: Site) -> list[str]:
    names = site.bench.registry.store.list_documents("engines/")
    return [name for name in names if "/attestations/build-" in name]


def test_the_provenance_says_when_and_in_which_run_it_was_built(
    site: Site, variant: Variant
) -> None:
    engine = publish(site.bench, site.built(variant, repairs=(REPAIR,)), variant)
    statement = site.bench.registry.verify_engine(engine)
    assert statement.predicate["runDetails"]["metadata"] == {
        "invocationId": RUN.invocation,
        "startedOn": RUN.started_at.isoformat(timespec="microseconds"),
        "finishedOn": RUN.finished_at.isoformat(timespec="microseconds"),
    }
    parameters = statement.predicate["buildDefinition"]["externalParameters"]
    assert (parameters["model"], parameters["variant"]) == ("tiny", str(variant.identifier))
    assert parameters["repairs"] == [REPAIR.as_dict()]


def test_an_engine_that_is_recorded_is_not_signed_again(site: Site, variant: Variant) -> None:
    built = site.built(variant)
    engine = publish(site.bench, built, variant)
    later = replace(built, run=replace(RUN, finished_at=RUN.finished_at + timedelta(days=1)))
    assert publish(site.bench, later, variant) == engine
    assert len(envelopes(site)) == 1


def test_an_engine_that_does_not_verify_is_not_published_again(
    site: Site, variant: Variant
) -> None:
    publish(site.bench, site.built(variant), variant)
    site.tamper("update engines set target='h100-sxm'")
    with pytest.raises(IntegrityError):
        publish(site.bench, site.built(variant), variant)


def test_an_engine_whose_builder_was_revoked_is_signed_anew_under_its_names(
    site: Site, variant: Variant
) -> None:
    first = publish(site.bench, site.built(variant), variant)
    site.revoke(Purpose.BUILD)
    named = replace(first.names, variant="tiny.other.tp1.cpu")
    again = publish(site.bench, replace(site.built(variant), names=named), variant)
    assert again == replace(first, provenance=again.provenance)
    assert site.bench.registry.engine(first.digest) == again
    site.bench.registry.verify_engine(again)
    assert len(envelopes(site)) == 2


def test_a_compiled_engine_remembers_the_run_that_made_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_self: object, request: BuildRequest, _run: object) -> BuiltEngine:
        request.output.mkdir()
        (request.output / "graph.pt2").write_bytes(b"graph")
        return BuiltEngine(request.output, 1.0, {}, (), {})

    monkeypatch.setattr(InductorBuilder, "build", build)
    first = replace(site.bench.shop, clock=iter((100.0, 160.0)).__next__)
    later = replace(first, logs=tmp_path / "another-run", clock=iter(()).__next__)
    checkpoint = Checkpoint(tmp_path, digest_bytes(b"checkpoint"))
    compilation = Compilation(InductorBuilder(tmp_path / "graphs"), {})
    made = [stages.compile_engine(shop, checkpoint, "v", compilation) for shop in (first, later)]
    assert [one.reused for one in made] == [False, True]
    times = [datetime.fromtimestamp(second, UTC) for second in (100.0, 160.0)]
    for one in made:
        assert BuildRun.of(one) == BuildRun(first.logs.name, *times)
        json.dumps(one.record)
