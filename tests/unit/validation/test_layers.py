from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.validation.checks import Limit
from enginekeeper.validation.layers import (
    FLOOR,
    LEAST,
    LINEARS,
    LayerScores,
    layers_check,
    load_layers,
    load_linears,
)

LIMIT = Limit(0.0025, "at most", 0.99, 6, "max_fidelity_kl")
PARTS = ("embedding", *(f"layers.{one}" for one in range(30)), "head")
SHAPE = (len(PARTS), 8)


def noise(size: float, seed: int = 0) -> NDArray[np.float64]:
    made: NDArray[np.float64] = size * np.random.default_rng(seed).uniform(0.5, 1.5, SHAPE)
    return made


def scores(apart: NDArray[np.float64] | None = None, floor: float = 1e-12) -> LayerScores:
    apart = noise(1e-12) if apart is None else apart
    return LayerScores(PARTS, 384, apart, noise(floor, 1), np.ones(SHAPE), np.zeros(SHAPE))


def test_layers_that_answer_like_the_checkpoint_pass() -> None:
    check = layers_check(scores(), LIMIT)

    assert (check.outcome, check.limit) == ("pass", LEAST)
    assert (check.prompts, check.positions) == (8, 384)
    assert "32 of 32 parts are proven inside" in str(check.note)


def test_a_layer_that_answers_otherwise_is_named_alone() -> None:
    apart = noise(1e-12)
    apart[16] = noise(2e-6)[16]

    check = layers_check(scores(apart), LIMIT)

    assert check.outcome == "fail"
    assert check.finding is not None
    assert (check.finding.where, check.finding.taxonomy) == ("layers.15", "T7")
    assert "0.14% of what the layer adds" in check.finding.message


def test_many_wrong_layers_are_counted() -> None:
    check = layers_check(scores(np.full(SHAPE, 1e-3)), LIMIT)

    assert check.finding is not None
    assert check.finding.where == "embedding, layers.0, layers.1, layers.2"
    assert "and 28 more" in check.finding.message


def test_a_rounding_that_fell_the_other_way_in_one_prompt_is_no_fault() -> None:
    apart = noise(1e-13)
    apart[6, 5] = 7e-3

    check = layers_check(scores(apart), LIMIT)

    assert check.outcome in ("pass", "shown")


def test_one_part_that_is_all_noise_hides_no_other() -> None:
    apart = noise(1e-12)
    apart[16] = noise(1e-4)[16]
    given = scores(apart)
    given.floor[3] = 1.0

    check = layers_check(given, LIMIT)

    assert check.outcome == "fail"
    assert check.finding is not None
    assert check.finding.where == "layers.15"


def test_what_is_all_noise_is_not_proven_inside() -> None:
    given = scores(noise(1e-3), floor=0.1)

    check = layers_check(given, LIMIT)

    assert check.outcome == "shown"
    assert "0 of 32 parts are proven inside" in str(check.note)


def test_a_fault_that_varies_between_prompts_fails() -> None:
    apart = noise(1e-13)
    apart[2] = (1.3e-3, 9e-4, 1.3e-3, 2.7e-3, 6e-4, 4e-3, 2e-3, 6e-4)  # FP8, a norm 2 % too loud

    check = layers_check(scores(apart), LIMIT)

    assert check.finding is not None
    assert check.finding.where == "layers.1"


def test_a_floor_raises_what_a_layer_may_be_apart() -> None:
    floor = 1e-5

    healthy = layers_check(scores(noise(floor, 3), floor), LIMIT)
    wrong = layers_check(scores(noise(10 * floor, 3), floor), LIMIT)

    assert (healthy.outcome, wrong.outcome) == ("pass", "fail")
    assert healthy.limit == pytest.approx(FLOOR * floor, rel=0.5)


def test_an_answer_that_is_not_finite_fails_and_names_its_part() -> None:
    broken = np.zeros(SHAPE)
    broken[4, 2] = 3

    check = layers_check(replace(scores(), broken=broken), LIMIT)

    assert check.finding is not None
    assert (check.outcome, check.finding.where) == ("fail", "layers.3")
    assert check.finding.taxonomy == "T20"


def test_few_prompts_do_not_decide() -> None:
    few = scores(noise(1e-2))
    cut = {name: getattr(few, name)[:, :4] for name in ("apart", "floor", "size", "broken")}

    assert layers_check(replace(few, **cut), LIMIT).outcome == "shown"


def written(path: Path, **changes: Any) -> Path:  # noqa: ANN401 - arrays
    given = scores()
    arrays = {name: getattr(given, name) for name in ("apart", "floor", "size", "broken")}
    metadata = {
        "schema": changes.pop("schema", "1"), "parts": json.dumps(PARTS),
        "tokens": json.dumps([48] * 8),
    }  # fmt: skip
    save_file({**arrays, **changes}, path, metadata)
    return path


def test_a_file_of_layers_is_read(tmp_path: Path) -> None:
    read = load_layers(written(tmp_path / "l.safetensors"))

    assert (read.parts, read.tokens) == (PARTS, 384)
    np.testing.assert_array_equal(read.apart, scores().apart)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "2"},
        {"apart": np.ones((3, 8))},
        {"apart": np.full(SHAPE, np.nan)},
        {"size": -np.ones(SHAPE)},
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load_layers(written(tmp_path / "l.safetensors", **changes))


def test_a_linear_is_named_with_the_output_that_is_furthest_away() -> None:
    apart = noise(1e-12)
    apart[7] = noise(1e-3)[7]
    rows = tuple((number, 1e-13) for number in range(len(PARTS)))
    furthest = (*rows[:7], (341, 0.25), *rows[8:])

    check = layers_check(replace(scores(apart), rows=furthest), LIMIT, LINEARS)

    assert (check.name, check.outcome) == ("probe.gemm", "fail")
    assert check.finding is not None
    assert check.finding.message.endswith("; of layers.6 most in output 341, by 50.00%")


@pytest.mark.parametrize("broken", ["row", "row_apart"])
@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_linears_without_their_furthest_outputs_are_refused(
    tmp_path: Path, broken: str, wrong: float
) -> None:
    path, said = tmp_path / "linears.safetensors", scores()
    arrays = {name: getattr(said, name) for name in ("apart", "floor", "size", "broken")}
    arrays |= {"row": np.zeros(len(PARTS)), "row_apart": np.zeros(len(PARTS))}
    metadata = {"schema": "1", "parts": json.dumps(PARTS), "tokens": json.dumps([6] * 8)}
    save_file(arrays, path, metadata)
    assert load_linears(path).rows[0] == (0, 0.0)

    arrays[broken] = np.full(len(PARTS), wrong)
    save_file(arrays, path, metadata)

    with pytest.raises(InputError, match="furthest"):
        load_linears(path)


def test_linears_of_another_version_are_refused_by_their_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="linears of another version"):
        load_linears(written(tmp_path / "l.safetensors", schema="2"))
