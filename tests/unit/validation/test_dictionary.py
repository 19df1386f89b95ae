from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.validation.dictionary import (
    Dictionary,
    codes_of,
    explain,
    in_words,
    load_dictionary,
)
from enginekeeper.validation.scores import Scores
from tests.factories import dictionaries
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.checkpoints import exported
from tests.factories.dictionaries import NAMES, dictionary_of, rows_of

TOKENS = small_suite()
TWIN = synthetic_arm(TOKENS)
PROMPTS = (3, 5, 7, 11, 13, 17)


def rows(prompts: tuple[int, ...] = PROMPTS) -> NDArray[np.int64]:
    return rows_of(TWIN, dictionary_of(TWIN, PROMPTS), prompts)


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return dictionary_of(TWIN, PROMPTS)


def engine_of(
    dictionary: Dictionary, gains: dict[int, float], *, noise: float = 0.0, seed: int = 0
) -> Scores:
    return dictionaries.engine_of(TWIN, dictionary, gains, noise=noise, seed=seed)


@given(st.integers(0, len(NAMES) - 1), st.floats(0.003, 0.3), st.sampled_from([-1.0, 1.0]))
def test_a_gain_that_was_put_in_is_found_with_its_size(
    dictionary: Dictionary, atom: int, gain: float, sign: float
) -> None:
    found = explain(dictionary, TWIN, engine_of(dictionary, {atom: sign * gain}, noise=gain / 2))

    assert found[0].names == (NAMES[atom],)
    assert found[0].gain == pytest.approx(sign * gain, rel=0.15)
    assert len(found) == 1


def test_two_gains_are_found_one_after_the_other(dictionary: Dictionary) -> None:
    found = explain(dictionary, TWIN, engine_of(dictionary, {4: 0.03, 14: -0.02}, noise=0.01))

    assert [one.names[0] for one in found] == [NAMES[4], NAMES[14]]
    assert [one.gain for one in found] == pytest.approx([0.03, -0.02], abs=0.002)


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_blamed_on_nobody(dictionary: Dictionary, seed: int) -> None:
    assert explain(dictionary, TWIN, engine_of(dictionary, {}, noise=0.02, seed=seed)) == ()


def test_equal_arms_leave_nothing_to_explain(dictionary: Dictionary) -> None:
    assert explain(dictionary, TWIN, engine_of(dictionary, {})) == ()


def test_directions_that_are_alike_are_one_set(dictionary: Dictionary) -> None:
    atoms = dictionary.atoms.copy()
    atoms[NAMES.index("model.layers.2.o")] = 1.001 * atoms[NAMES.index("model.layers.2.v")]
    twins = replace(dictionary, atoms=atoms)
    engine = engine_of(twins, {NAMES.index("model.layers.2.v"): 0.05}, noise=0.01)

    (found,) = explain(twins, TWIN, engine)

    assert set(found.names) == {"model.layers.2.v", "model.layers.2.o"}


def test_a_gain_in_every_layer_is_one_culprit(dictionary: Dictionary) -> None:
    downs = {number: 0.03 for number, name in enumerate(NAMES) if name.endswith("down")}

    (found,) = explain(dictionary, TWIN, engine_of(dictionary, downs, noise=0.01))

    assert found.names == ("down of every layer",)
    assert found.gain == pytest.approx(0.03, rel=0.05)


def test_a_difference_of_one_prompt_only_is_no_gain(dictionary: Dictionary) -> None:
    """A gain moves every prompt; what moves one has no spread to be certain by."""
    engine = engine_of(dictionary, {})
    first = rows(PROMPTS[:1])
    engine.at["twin"][first] += 0.3 * dictionary.atoms[4, : len(first)]

    assert explain(dictionary, TWIN, engine) == ()


def test_an_engine_that_was_stopped_is_explained_by_what_it_scored(
    dictionary: Dictionary,
) -> None:
    order = (7, 0, 3, 13, 5)
    whole = engine_of(dictionary, {8: 0.04}, noise=0.01)

    (found,) = explain(dictionary, TWIN, whole.only(order), order)

    assert found.names == (NAMES[8],)


def test_too_few_prompts_in_common_explain_nothing(dictionary: Dictionary) -> None:
    order = (7, 0, 1, 2, 3)
    engine = engine_of(dictionary, {8: 0.04}).only(order)

    assert explain(dictionary, TWIN, engine, order) == ()


def test_rows_that_are_not_finite_are_left_out(dictionary: Dictionary) -> None:
    engine = engine_of(dictionary, {8: 0.04}, noise=0.01)
    finite = engine.finite.copy()
    finite[rows()[::3]] = False
    engine.at["twin"][rows()[::3]] = np.nan

    (found,) = explain(dictionary, TWIN, replace(engine, finite=finite))

    assert found.names == (NAMES[8],)
    assert "gain +4" in in_words([found]) or "gain +3.9" in in_words([found])


def test_the_zero_points_of_every_layer_are_one_culprit_in_codes(dictionary: Dictionary) -> None:
    names = tuple(name.replace("down", "down.zero_point") for name in NAMES)
    shifted = {number: -0.5 for number, name in enumerate(names) if name.endswith("zero_point")}

    (found,) = explain(replace(dictionary, names=names), TWIN, engine_of(dictionary, shifted))

    assert in_words([found]).startswith("down.zero_point of every layer: gain -0.50 codes")


@pytest.mark.parametrize(
    ("recipe", "codes"),
    [("w4a16_awq", {"bits": 4, "group": 32}), ("w8a16", None), ("fp8", None), ("none", None)],
)
def test_only_groups_of_int4_have_zero_points_to_be_wrong(
    recipe: str, codes: dict[str, int] | None, tmp_path: Path
) -> None:
    found = codes_of(exported(recipe, tmp_path))

    assert found == codes


def written(
    path: Path, *, names: object = NAMES[:2], schema: str = "2", positions: str = "[3, 2]"
) -> Path:
    metadata = {"schema": schema, "atoms": json.dumps(names), "prompts": "[0, 1]"}
    metadata["positions"] = positions
    save_file({"sensitivities": np.zeros((2, 5, 3), np.float32)}, path, metadata)
    return path


def test_a_file_of_sensitivities_is_read(tmp_path: Path) -> None:
    read = load_dictionary(written(tmp_path / "d.safetensors"))

    assert (read.names, read.prompts, read.lengths) == (NAMES[:2], (0, 1), (3, 2))
    assert read.atoms.shape == (2, 5, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": "9"},
        {"schema": "1"},
        {"names": ["one"]},
        {"positions": "[3, 3]"},
        {"positions": "[5]"},
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        load_dictionary(written(tmp_path / "d.safetensors", **wrong))  # type: ignore[arg-type]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.safetensors").write_bytes(b"x")
    with pytest.raises(InputError):
        load_dictionary(tmp_path / "d.safetensors")
