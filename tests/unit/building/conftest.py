"""What several tests of builders start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.building.simulated.build import main as build
from tests.factories.checkpoints import exported


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of two ranks; its stripped engine lies in `stripped`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-SIMULATED-h100-sxm")
    made = exported("w8a8_sq_tp2", tmp_path / "in")
    words = [f"--checkpoint_dir={made}", "--output_dir=stripped", "--strip_plan"]
    build("1.2.1", tmp_path / "nothing-told", words)
    return made
