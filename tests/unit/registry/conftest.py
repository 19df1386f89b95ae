from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.registry import Workbench, make_workbench


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return make_workbench(tmp_path)
