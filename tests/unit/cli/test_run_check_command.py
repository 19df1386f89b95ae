"""`ek run-check` where the registry answers: what it does not know is not started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.blobs.local import LocalBlobStore
from registry.bundles import write_directory
from registry.errors import StoreUnavailableError
from registry.exchange import evidence_of
from registry.retention import RetentionPolicy
from registry.sweeping import plan_sweep, sweep
from registry.types import Engine
from tests.factories.benches import Site, variants_of
from tests.fakes.users import as_nobody

Ek = Callable[..., Any]


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """A qualified engine, which lies with its evidence where `exported` says."""
    (variant,) = variants_of(tmp_path)
    made = site.publish(variant)
    site.judge(made, variant)
    registry = site.bench.registry
    write_directory(registry.store, evidence_of(registry, made), exported(tmp_path))
    return made


def exported(directory: Path) -> Path:
    return directory / "exported"


def swept(site: Site, engine: Engine) -> None:
    """Removes an engine that nothing reaches any more, as `gc` would in a year."""
    later = datetime.now(UTC) + timedelta(days=400)
    registry = replace(site.bench.registry, clock=lambda: later)
    policy = RetentionPolicy(grace=timedelta(hours=1), per_key=0)
    assert sweep(registry, plan_sweep(registry, policy)).engines == [engine.digest]


def test_an_engine_that_was_revoked_and_swept_is_not_started(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    ek("engine", "revoke", engine.digest.short, "--reason", "leaks", "--yes")
    swept(site, engine)
    said = ek("run-check", exported(tmp_path), "--json")
    assert (said.code, said.json["source"]) == (5, "registry")
    assert said.json["decision"]["rule"] == "revoked"
    assert "leaks" in str(said.json["decision"]["evidence"])


def test_an_engine_that_the_registry_does_not_know_is_started_only_offline(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    swept(site, engine)
    said = ek("run-check", exported(tmp_path), "--json")
    assert (said.code, said.json["source"]) == (5, "registry")
    assert said.json["decision"]["rule"] == "unknown"
    assert "--offline" in str(said.json["decision"]["evidence"])
    said = ek("run-check", exported(tmp_path), "--offline", "--json")
    assert (said.code, said.json["source"]) == (0, "evidence")


def test_an_unknown_engine_whose_store_does_not_answer_is_not_started(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(site, engine)

    def silent(_store: LocalBlobStore, prefix: str) -> None:
        raise StoreUnavailableError("the store went away", where=prefix)

    monkeypatch.setattr(LocalBlobStore, "list_documents", silent)
    assert ek("run-check", exported(tmp_path)).code == 10


def test_a_file_that_cannot_be_read_is_told_and_no_defect(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    place = exported(tmp_path)
    (place / "engine" / "graph.pt2").chmod(0)
    with as_nobody():
        said = ek("run-check", place, "--offline", "--", "false")
    assert (said.code, engine.digest.short in said.out) == (10, False)
    assert "Permission denied" in said.err
    assert "next:" in said.err
    assert not list((tmp_path / "home").glob("crashes/*"))
