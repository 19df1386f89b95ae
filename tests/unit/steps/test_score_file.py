from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.factories.step_modules import step_module

Refusal = step_module("_step").Refusal
read_tokens = step_module("_score_file").read_tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"prompts": [{"id": one, "ids": [1, 2, 3]} for one in "abc"]}))
    return path


def test_a_job_may_name_some_prompts_in_any_order(tokens: Path) -> None:
    assert read_tokens(tokens, 8).chosen([2, 0]) == [2, 0]


@pytest.mark.parametrize("numbers", [[], [3], [-1]])
def test_a_job_that_names_no_prompts_is_refused(tokens: Path, numbers: list[int]) -> None:
    with pytest.raises(Refusal, match="no such prompts"):
        read_tokens(tokens, 8).chosen(numbers)
