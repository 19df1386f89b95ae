from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation.scores import MalformedScoresError, Scores, load_scores
from enginekeeper.validation.tokens import TokenizedSuite

Arrays = dict[str, NDArray[Any]]
Write = Callable[[Arrays], Path]


@pytest.fixture
def arrays(arm: Callable[..., Scores]) -> Arrays:
    scores = arm(targets={"source": arm()})
    return {
        "offsets": scores.offsets,
        "top_ids": scores.top_ids,
        "top_logprobs": scores.top_logprobs,
        "target_logprobs": scores.target_logprobs,
        "finite": scores.finite.astype(np.uint8),
        "greedy_ids": scores.greedy_ids,
        "greedy_logprobs": scores.greedy_logprobs,
        "at_source": scores.at["source"],
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> Path:
        path = tmp_path / "scores.safetensors"
        good = {"schema": "1", "arm": "engine", "meta": json.dumps({"dtype": "float32"})}
        save_file(arrays, path, metadata=dict(metadata or good))
        return path

    return save


def test_a_good_file_is_read_as_written(
    arrays: Arrays, write: Write, tokens: TokenizedSuite
) -> None:
    scores = load_scores(write(arrays), tokens)

    assert scores.arm == "engine"
    assert scores.meta == {"dtype": "float32"}
    assert scores.positions == tokens.positions
    assert scores.prompts == len(tokens.prompts)
    np.testing.assert_array_equal(scores.at["source"], arrays["at_source"])


def _set(name: str, index: Any, value: Any) -> Callable[[Arrays], None]:  # noqa: ANN401
    def edit(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return edit


def _cast(name: str, dtype: type[np.generic]) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return edit


def _cut(name: str) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        arrays[name] = arrays[name][:-1].copy()

    return edit


def _shift_targets(arrays: Arrays) -> None:
    arrays["target_logprobs"] = np.roll(arrays["target_logprobs"], 1).copy()


def _raise_all(arrays: Arrays) -> None:
    arrays["top_logprobs"] = np.minimum(arrays["top_logprobs"] + np.float32(2.0), np.float32(0.0))


def _speak_after_the_end(arrays: Arrays) -> None:
    arrays["greedy_ids"] = arrays["greedy_ids"].copy()
    arrays["greedy_ids"][0, 2] = -1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda arrays: arrays.pop("finite"), "an array is missing"),
        (_cast("top_ids", np.int64), "top_ids has another layout"),
        (_cast("at_source", np.float16), "at_source has another layout"),
        (_cut("offsets"), "the scores are of other prompts"),
        (_cut("target_logprobs"), "target_logprobs has another length"),
        (_cut("at_source"), "at_source has another length"),
        (_cut("greedy_logprobs"), "the greedy continuations do not match"),
        (_set("offsets", 3, 0), "the scores are of other prompts"),
        (_set("top_ids", (0, 0), 64), "outside the vocabulary"),
        (_set("top_ids", (0, 0), -1), "outside the vocabulary"),
        (_set("top_ids", (0, slice(None)), 5), "names the same token twice"),
        (_set("greedy_ids", (0, 0), 64), "outside the vocabulary"),
        (_speak_after_the_end, "goes on after its end"),
        (_set("top_logprobs", (2, 1), np.nan), "top_logprobs is not finite"),
        (_set("at_source", (2, 1), -np.inf), "at_source is not finite"),
        (_set("target_logprobs", 2, np.nan), "target_logprobs is not finite"),
        (_set("target_logprobs", 2, 0.5), "more than all of the probability"),
        (_raise_all, "more than all of the probability"),
        (_set("top_logprobs", (2, 0), -30.0), "not in descending order"),
        (_shift_targets, "are not of the tokens that follow"),
        (_set("greedy_logprobs", (1, 2), np.inf), "greedy_logprobs holds what is no log-prob"),
        (_set("greedy_logprobs", (1, 2), 0.5), "greedy_logprobs holds what is no log-prob"),
    ],
)
def test_a_malformed_file_is_refused_by_name(
    arrays: Arrays,
    write: Write,
    tokens: TokenizedSuite,
    edit: Callable[[Arrays], object],
    message: str,
) -> None:
    edit(arrays)

    with pytest.raises(MalformedScoresError, match=message):
        load_scores(write(arrays), tokens)


def test_a_row_marked_not_finite_may_hold_anything_and_is_kept(
    arrays: Arrays, write: Write, tokens: TokenizedSuite
) -> None:
    for edit in (
        _set("finite", 4, 0),
        _set("top_logprobs", 4, np.nan),
        _set("target_logprobs", 4, np.nan),
        _set("at_source", 4, np.inf),
    ):
        edit(arrays)

    scores = load_scores(write(arrays), tokens)

    assert not scores.finite[4]
    assert scores.finite.sum() == tokens.positions - 1


def test_a_decode_step_that_is_not_finite_is_kept_and_counted(
    arrays: Arrays, write: Write, tokens: TokenizedSuite
) -> None:
    _set("greedy_logprobs", (1, 2), np.nan)(arrays)

    scores = load_scores(write(arrays), tokens)

    assert np.argwhere(~scores.decode_finite).tolist() == [[1, 2]]
    assert scores.not_finite == 1


def test_a_truncated_file_is_refused(arrays: Arrays, write: Write, tokens: TokenizedSuite) -> None:
    path = write(arrays)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(MalformedScoresError, match="not a whole safetensors file"):
        load_scores(path, tokens)


@pytest.mark.parametrize("metadata", [{"schema": "2", "arm": "engine"}, {"schema": "1"}])
def test_another_version_or_arm_is_refused(
    arrays: Arrays, tmp_path: Path, tokens: TokenizedSuite, metadata: dict[str, str]
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(arrays, path, metadata=metadata)

    with pytest.raises(InputError, match="not a score file of this version"):
        load_scores(path, tokens)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, tokens: TokenizedSuite) -> None:
    with pytest.raises(MissingError):
        load_scores(tmp_path / "none.safetensors", tokens)
