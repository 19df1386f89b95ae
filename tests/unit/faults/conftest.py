from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import checkpoints


@pytest.fixture(params=[name for name in checkpoints.RECIPES if "tp2" not in name])
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def exported(recipe: str, tmp_path: Path) -> Path:
    return checkpoints.exported(recipe, tmp_path)
