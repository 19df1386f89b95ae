from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.tokens import load_tokens


def write(path: Path, ids: object, vocab_size: object = 10) -> Path:
    document = {"prompts": [{"id": "a", "stratum": "s", "ids": ids}], "vocab_size": vocab_size}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    tokens = load_tokens(write(tmp_path / "tokens.json", [1, 2, 9]))

    assert tokens.prompts[0].ids == (1, 2, 9)
    assert tokens.positions == 2
    assert tokens.digest.scheme == "ek-tokens-v1"


@pytest.mark.parametrize("ids", [[1, 10], [-1, 2], [1, "2"], [1, True]])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path, ids: object) -> None:
    with pytest.raises(InputError, match="not in the model's vocabulary"):
        load_tokens(write(tmp_path / "tokens.json", ids))


@pytest.mark.parametrize("ids", [[], [1]])
def test_a_prompt_with_nothing_to_predict_is_refused(tmp_path: Path, ids: object) -> None:
    with pytest.raises(InputError, match="too short to score"):
        load_tokens(write(tmp_path / "tokens.json", ids))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"prompts": [], "vocab_size": 3}'])
def test_what_is_not_a_tokens_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(InputError):
        load_tokens(path)


def test_a_vocabulary_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no vocabulary"):
        load_tokens(write(tmp_path / "tokens.json", [1, 2], "ten"))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_tokens(tmp_path / "none.json")
