"""What the step that warms up reads out of the caches that the runtime leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.step_modules import step_module


def test_a_file_of_tactics_tells_the_ranks_that_it_has_a_part_of(tmp_path: Path) -> None:
    tactics = tmp_path / "tactics.json"
    tactics.write_text('{"metadata": {}, "rank_10": {}, "rank_2": {}, "rank_x": {}}')

    held = step_module("warm_pytorch")._held(tactics)

    assert held == {"files": 1, "bytes": tactics.stat().st_size, "ranks": [2, 10]}


@pytest.mark.parametrize("content", ["no JSON", "5", "[]", "null", '"rank_0"'])
def test_what_is_no_file_of_tactics_is_refused(tmp_path: Path, content: str) -> None:
    tactics = tmp_path / "tactics.json"
    tactics.write_text(content)

    with pytest.raises(step_module("_step").Refusal) as caught:
        step_module("warm_pytorch")._held(tactics)

    assert caught.value.kind == "unexpected-output"
