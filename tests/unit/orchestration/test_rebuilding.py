"""Which builds a change becomes, and that one which fails stops no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration import planning
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.orchestration.publication import publish
from enginekeeper.orchestration.rebuilding import RebuildRequest, attempted, plan_rebuild
from registry.keys import EngineKey
from tests.factories.benches import Site, variants_of, write_spec
from tests.factories.checkpoints import SOURCE
from tests.factories.registry import WEIGHTS
from tests.fakes.statements import asked


@pytest.fixture(autouse=True)
def source_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(path=SOURCE, digest=WEIGHTS)
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: here)


def test_two_engines_of_a_variant_are_two_builds_and_one_asked_for_twice_is_one(
    site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    first, built = site.publish(variant), site.built(variant, b"older")
    key = EngineKey({**built.key.hard, "recipe": "older"})
    older = publish(site.bench, replace(built, key=key), variant)
    digests = (str(first.digest), str(older.digest))
    spec = write_spec(tmp_path)

    plan = plan_rebuild(site.bench, RebuildRequest((spec,), engines=(*digests, first.digest.short)))

    assert [one.engines for one in plan.order.builds] == [digests[:1], digests[1:]]
    assert {one.only for one in plan.order.builds} == {(str(variant.identifier),)}
    assert plan.left_out() == []


def test_a_variant_that_is_asked_for_twice_is_built_once(site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path)
    site.publish(variant)
    spec = write_spec(tmp_path)

    request = RebuildRequest((spec,), toolchains=("inductor",), weights=("tiny",))

    (build,) = plan_rebuild(site.bench, request).order.builds
    assert (build.only, build.engines) == ((str(variant.identifier),), ())


def test_a_build_that_cannot_start_is_the_outcome_of_its_variants() -> None:
    def build(_order: BuildOrder) -> list[Outcome]:
        raise UnavailableError("the Hub does not answer", transient=True)

    outcomes = attempted(build, BuildOrder("spec.yaml", only=("a", "b")))

    assert [(one.variant, one.ending) for one in outcomes] == [
        ("a", Ending.FAILED), ("b", Ending.FAILED),
    ]  # fmt: skip
    assert {one.failure and one.failure.family for one in outcomes} == {UnavailableError}


def test_what_was_built_is_asked_once_however_many_engines_there_are(
    site: Site, tmp_path: Path
) -> None:
    variants = variants_of(tmp_path, "[none, w8a16]")
    request = RebuildRequest((write_spec(tmp_path, "[none, w8a16]"),), weights=("other",))
    counts = []
    for variant in variants:
        site.publish(variant)
        with asked() as statements:
            plan_rebuild(site.bench, request)
        counts.append(len(statements))
    assert counts[0] == counts[1]
