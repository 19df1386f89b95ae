"""The workshop: how steps are started, and what binds a product to how it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper import own_code
from enginekeeper.errors import StepError
from enginekeeper.orchestration import workshop
from enginekeeper.orchestration.stages import made_once
from enginekeeper.toolchains.runner import StepOutcome, StepRun
from registry.digests import digest_bytes
from tests.factories.benches import Site


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[StepRun]:
    """Records what would be run, and lets every step end well."""
    seen: list[StepRun] = []

    def run_step(run: StepRun, **_options: object) -> StepOutcome:
        seen.append(run)
        return StepOutcome({}, {}, 1.5, run.directory / "step.log")

    monkeypatch.setattr(workshop, "run_step", run_step)
    return seen


def test_every_run_of_a_step_keeps_its_own_directory(site: Site, runs: list[StepRun]) -> None:
    for _ in range(3):
        site.bench.shop.run("inductor", "compile_engine", {"a": 1}, name="v", minutes=2)
    below = [run.directory.relative_to(site.bench.shop.logs).as_posix() for run in runs]
    assert below == ["v/compile_engine", "v/compile_engine.2", "v/compile_engine.3"]
    assert all(run.directory.is_dir() and run.timeout_seconds == 120 for run in runs)


def test_a_product_is_bound_to_the_lock_and_to_the_steps_code(site: Site) -> None:
    shop = site.bench.shop
    identity = shop.identity("inductor", "score_engine")
    assert identity == shop.identity("inductor", "score_engine")
    other_lock = replace(shop, lock_of=lambda _name: digest_bytes(b"newer"))
    assert other_lock.identity("inductor", "score_engine")["lock"] != identity["lock"]
    assert shop.identity("inductor", "score_twin")["step"] != identity["step"]


def test_our_own_code_has_a_name_that_follows_its_bytes(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numerics").mkdir()
    for name in ("twin.py", "numerics/a.py", "numerics/b.py", "numerics/notes.md"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(own_code, "PACKAGE", tmp_path)
    code = site.bench.shop.code
    before = code("twin.py", "numerics")
    (tmp_path / "numerics" / "notes.md").write_text("changed")
    assert code("twin.py", "numerics") == before
    (tmp_path / "numerics" / "b.py").write_text("changed")
    assert code("twin.py", "numerics") != before


def test_the_code_a_twin_depends_on_exists(site: Site) -> None:
    assert site.bench.shop.code("validation/twin.py", "validation/numerics").startswith("ek-code-")


def test_a_stage_is_made_once_and_again_when_its_inputs_change(site: Site) -> None:
    made: list[Path] = []

    def make(directory: Path) -> dict[str, Any]:
        made.append(directory)
        return {"seconds": 2.0, "note": len(made)}

    first = made_once(site.bench.shop, "tokens", {"model": "a"}, make)
    again = made_once(site.bench.shop, "tokens", {"model": "a"}, make)
    other = made_once(site.bench.shop, "tokens", {"model": "b"}, make)
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert (first.key, first.path) == (again.key, again.path)
    assert again.record["note"] == 1
    assert again.record["inputs"] == {"model": "a"}
    assert len(made) == 2


def test_a_stage_that_fails_is_made_again(site: Site) -> None:
    def fail(_directory: Path) -> dict[str, Any]:
        raise StepError("it broke")

    with pytest.raises(StepError, match="it broke"):
        made_once(site.bench.shop, "tokens", {}, fail)
    assert not made_once(site.bench.shop, "tokens", {}, lambda _path: {}).reused
