"""Imports that are killed: wherever it happens, nothing of the bundle opens anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.blobs.local import LocalBlobStore
from registry.bundles import write_bundle
from registry.errors import RecordNotFoundError
from registry.exchange import evidence_of, import_bundle
from registry.lifecycle import revoke
from registry.records import Draft
from registry.types import Engine, Result
from tests.factories.registry import CPU, Workbench, make_workbench, with_registry


class KilledError(BaseException):
    """What no code catches."""


STEPS: dict[str, tuple[type, str]] = {
    "verdict": (Draft, "add_verdict"),
    "waiver": (Draft, "add_waiver"),
    "end": (Draft, "end_waiver"),
    "standing": (Draft, "add_standing"),
    "log": (Draft, "write_log"),
    "document": (LocalBlobStore, "put_document"),
}


def killing(patch: pytest.MonkeyPatch, step: str, count: int) -> None:
    """Kills before a step is done for the nth time."""
    owner, name = STEPS[step]
    real: Callable[..., Any] = getattr(owner, name)
    left = [count]

    def killed(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the real one takes
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        return real(*given, **named)

    patch.setattr(owner, name, killed)


def rules(bench: Workbench, engine: Engine) -> str:
    try:
        return bench.registry.gate(engine.digest, CPU).rule
    except RecordNotFoundError:
        return "unknown"


@pytest.fixture
def elsewhere(bench: Workbench, tmp_path: Path) -> Workbench:
    other = make_workbench(tmp_path / "elsewhere")
    return with_registry(other, trust=bench.signers.trust)


def carried(bench: Workbench, engine: Engine, path: Path) -> Path:
    write_bundle(bench.registry.store, evidence_of(bench.registry, engine), path)
    return path


@pytest.mark.parametrize(
    ("step", "count"),
    [("verdict", 1), ("verdict", 2), ("waiver", 1), ("end", 1), ("log", 2),
     *(("document", count) for count in (1, 2, 3, 5, 8))],
)  # fmt: skip
def test_a_killed_import_shows_no_pass_without_the_fail_after_it(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path, step: str, count: int
) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.judge(engine, Result.FAIL)
    bench.end(bench.waive(engine, "verdict-failed"))
    bundle = carried(bench, engine, tmp_path / "engine.bundle")
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, step, count)
        with pytest.raises(KilledError):
            import_bundle(elsewhere.registry, bundle, tmp_path / "scratch")
    assert rules(elsewhere, engine) == "unknown"
    done = import_bundle(elsewhere.registry, bundle, tmp_path / "scratch")
    assert (done.verdicts, rules(elsewhere, engine)) == (2, "verdict-failed")


def test_a_killed_import_into_a_registry_that_has_the_engine_changes_no_answer(
    bench: Workbench, elsewhere: Workbench, tmp_path: Path
) -> None:
    engine = bench.publish()
    import_bundle(
        elsewhere.registry, carried(bench, engine, tmp_path / "early.bundle"), tmp_path / "scratch"
    )
    bench.end(bench.waive(engine, "never-judged"))
    late = carried(bench, engine, tmp_path / "late.bundle")
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, "end", 1)
        with pytest.raises(KilledError):
            import_bundle(elsewhere.registry, late, tmp_path / "scratch")
    assert (rules(elsewhere, engine), elsewhere.registry.waivers()) == ("never-judged", [])


def test_an_engine_that_is_published_again_is_never_seen_without_its_revocation(
    bench: Workbench,
) -> None:
    engine = bench.publish()
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    with bench.registry.catalogue.edit() as draft:
        draft.remove_engine(engine.digest)
    with pytest.MonkeyPatch.context() as patch:
        killing(patch, "standing", 1)
        with pytest.raises(KilledError):
            bench.publish()
    assert rules(bench, engine) == "unknown"
    bench.publish()
    assert rules(bench, engine) == "revoked"
