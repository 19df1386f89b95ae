"""A step runs with a copy of a bundle's caches, or with none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.runtime_caches import CACHES
from tests.factories.step_modules import step_module

KEY: dict[str, Any] = {
    "gpu_product": "NVIDIA L4", "compute_capability": "8.9", "driver": "580.95.05",
    "cuda": "13.0", "packages": {"torch": "2.13.0"},
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job with caches of this node, in a step's directory."""
    runtime = step_module("_runtime")
    monkeypatch.setattr(runtime, "find_devices", lambda _gpu, count: [{}] * count)
    monkeypatch.setattr(runtime, "key_of", lambda _device: KEY)
    monkeypatch.chdir(tmp_path)
    for variable, _ in CACHES.values():
        monkeypatch.setenv(variable, "")  # put back when the test ends
    folder = tmp_path / "bundle" / "caches"
    (folder / "triton").mkdir(parents=True)
    (folder / "triton" / "x.cubin").write_bytes(b"kernel")
    return {
        "gpu": {},
        "ranks": 1,
        "caches": {"folder": str(folder), "key": KEY, "variables": dict(CACHES.values())},
    }


def test_every_cache_is_led_to_a_copy(job: dict[str, Any]) -> None:
    assert step_module("_runtime").lead_caches(job) == "used"

    copy = Path(os.environ["TRITON_CACHE_DIR"]) / "x.cubin"
    copy.write_bytes(b"written")
    assert (Path(job["caches"]["folder"]) / "triton" / "x.cubin").read_bytes() == b"kernel"
    assert Path(os.environ["TLLM_AUTOTUNER_CACHE_PATH"]).parent.is_dir()


@pytest.mark.parametrize("name", [*KEY, "package"])
def test_a_field_that_differs_leaves_every_cache_empty(name: str, job: dict[str, Any]) -> None:
    other = {"packages": {**KEY["packages"], "triton": "3.5"}} if name == "package" else {
        name: {} if name == "packages" else "another"
    }  # fmt: skip
    job["caches"]["key"] = {**KEY, **other}

    said = step_module("_runtime").lead_caches(job)

    assert said is not None
    assert said.startswith("refused: ")
    assert not (Path(os.environ["TRITON_CACHE_DIR"]) / "x.cubin").exists()


def test_a_job_without_caches_changes_nothing(job: dict[str, Any]) -> None:
    before = dict(os.environ)

    assert step_module("_runtime").lead_caches({"gpu": job["gpu"]}) is None
    assert dict(os.environ) == before
