"""`checkpoint audit`: what is found, and what was not looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.factories import checkpoints

Ek = Callable[..., Any]


def test_without_a_recipe_its_audit_is_listed_as_not_run(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    said = ek("checkpoint", "audit", checkpoint, "--model", checkpoints.SOURCE)
    assert said.code == 0
    assert "recipe: not run" in said.out.splitlines()


def test_a_person_reads_the_verdict_and_the_culprit_first_and_short_lines(
    ek: Ek, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    scales = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensor(checkpoint, scales, lambda one: one * np.float32(2))
    said = ek("checkpoint", "audit", checkpoint, "--model", checkpoints.SOURCE)
    assert said.out.splitlines()[0] == "FAIL: transformer.layers.1.mlp.proj"
    assert max(len(line) for line in said.out.splitlines()) < 250
    assert "tensor parts 16" in said.out


@pytest.mark.parametrize(
    ("recipe", "code", "result"),
    [
        ("{recipe: w4a16, group_size: 32}", 0, "pass"),
        ("w4a16", 5, "fail"),
        ("w4a16_awq", 5, "fail"),
    ],
)
def test_with_a_recipe_the_block_is_held_against_it(
    recipe: str, code: int, result: str, ek: Ek, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    command = ("checkpoint", "audit", checkpoint, "--model", checkpoints.SOURCE, "--json")
    said = ek(*command, "--recipe", recipe)
    assert said.code == code
    assert [one["result"] for one in said.json["audits"]] == ["pass", "pass", result]


def test_a_recipe_that_does_not_exist_is_an_input_error(ek: Ek, tmp_path: Path) -> None:
    said = ek("checkpoint", "audit", tmp_path, "--model", tmp_path, "--recipe", "w9")
    assert (said.code, said.out) == (3, "")
    assert "--recipe:1:1: not a known value" in said.err


def test_a_malformed_field_is_an_input_error(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_quantization(checkpoint, group_size="all")
    said = ek("checkpoint", "audit", checkpoint, "--model", checkpoints.SOURCE)
    assert (said.code, said.out) == (3, "")
    assert "quantization.group_size is not usable" in said.err
