"""Score files: what one arm said about every position of the probe suite.

Rules:

- log-probabilities are natural logarithms of a softmax over the whole vocabulary;
- a row whose logits were not all finite is kept, marked in `finite`, and never averaged away;
- everything else that is not as the format says makes the whole file unusable: a comparison is
  made of well-formed scores or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation.tokens import TokenizedSuite

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]

SCHEMA = "1"
ARMS = ("engine", "twin", "source")

LACKING = frozenset({"target_logprobs", "top_logprobs", "greedy_logprobs"})
"""What a runner may leave out, if the file says so."""

MASS_TOLERANCE = 1e-4
"""How far a row of log-probabilities may exceed a total of 1: float32 log-softmax over 2e5 ids."""

_LAYOUT = {
    "offsets": (np.int64, 1),
    "top_ids": (np.int32, 2),
    "top_logprobs": (np.float32, 2),
    "target_logprobs": (np.float32, 1),
    "finite": (np.uint8, 1),
    "greedy_ids": (np.int32, 2),
    "greedy_logprobs": (np.float32, 2),
}


class MalformedScoresError(InputError):
    """A score file does not hold what the format says; it must be made again."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One arm's scores; N positions flattened over P prompts, K best tokens kept at each.

    Two are the same only if they are one object: so a comparison of arms can be remembered.
    """

    arm: str
    offsets: NDArray[np.int64]
    top_ids: Ids
    top_logprobs: Floats
    target_logprobs: Floats
    finite: NDArray[np.bool_]
    greedy_ids: Ids
    """[P, G]; -1 after the last token of an arm that ended early, which none of ours does."""
    greedy_logprobs: Floats
    """NaN where the logits were not all finite; 0 after the last token."""
    at: Mapping[str, Floats]
    """This arm's log-probabilities at another arm's best tokens, by that arm's name."""
    meta: Mapping[str, Any]

    @property
    def positions(self) -> int:
        """N: how many positions were scored."""
        return int(self.offsets[-1])

    @property
    def prompts(self) -> int:
        """P: how many prompts were scored."""
        return len(self.offsets) - 1

    @property
    def lacks(self) -> tuple[str, ...]:
        """Arrays whose numbers its runner does not give: they stand for nothing."""
        return tuple(self.meta.get("lacks", ()))

    @property
    def of_choices(self) -> bool:
        """Whether it names what was chosen, and nothing of any other token."""
        return "target_logprobs" in self.lacks

    @property
    def decode_finite(self) -> NDArray[np.bool_]:
        """[P, G]: where the logits of a decode step were all finite, or there was no step."""
        steps: NDArray[np.bool_] = np.isfinite(self.greedy_logprobs) | (self.greedy_ids == -1)
        return steps

    @property
    def not_finite(self) -> int:
        """At how many positions and decode steps the logits were not all finite."""
        return int((~self.finite).sum() + (~self.decode_finite).sum())

    def only(self, chosen: Sequence[int]) -> Scores:
        """Returns the scores of some prompts, in the order they are named in."""
        spans = tuple(self.spans())
        rows = np.concatenate([np.arange(spans[one].start, spans[one].stop) for one in chosen])
        lengths = [spans[one].stop - spans[one].start for one in chosen]
        prompts = np.asarray(chosen)
        return replace(
            self,
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            top_ids=self.top_ids[rows],
            top_logprobs=self.top_logprobs[rows],
            target_logprobs=self.target_logprobs[rows],
            finite=self.finite[rows],
            greedy_ids=self.greedy_ids[prompts],
            greedy_logprobs=self.greedy_logprobs[prompts],
            at={name: array[rows] for name, array in self.at.items()},
        )

    def spans(self) -> Iterator[slice]:
        """Gives each prompt's positions, in order."""
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield slice(int(start), int(stop))


def joined(parts: Sequence[Scores]) -> Scores:
    """Returns one arm's scores of the prompts of all parts, in their order."""
    first = parts[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return replace(
        first,
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        top_ids=np.concatenate([part.top_ids for part in parts]),
        top_logprobs=np.concatenate([part.top_logprobs for part in parts]),
        target_logprobs=np.concatenate([part.target_logprobs for part in parts]),
        finite=np.concatenate([part.finite for part in parts]),
        greedy_ids=np.concatenate([part.greedy_ids for part in parts]),
        greedy_logprobs=np.concatenate([part.greedy_logprobs for part in parts]),
        at={name: np.concatenate([part.at[name] for part in parts]) for name in first.at},
    )


def load_scores(path: Path, tokens: TokenizedSuite) -> Scores:
    """Reads a score file and checks it against the format and the tokens it is said to score."""
    arrays, metadata = _read(path)
    scores = _assemble(path, arrays, metadata)
    check_scores(scores, tokens, where=str(path))
    return scores


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as handle:
            names = handle.keys()  # the handle itself is not iterable
            arrays = {name: handle.get_tensor(name) for name in names}
            return arrays, handle.metadata() or {}
    except FileNotFoundError as error:
        raise MissingError("no such score file", where=str(path)) from error
    except (SafetensorError, OSError) as error:
        raise MalformedScoresError(
            "not a whole safetensors file", where=str(path), actual=error, remedy="score again"
        ) from error


def _assemble(path: Path, arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> Scores:
    _check_metadata(path, metadata)
    for name, (dtype, dimensions) in _LAYOUT.items():
        array = arrays.get(name)
        if array is None:
            raise MalformedScoresError("an array is missing", where=str(path), expected=name)
        _check_layout(path, name, array, f"{np.dtype(dtype).name} with {dimensions} dimensions")
    at = {name[3:]: array for name, array in arrays.items() if name.startswith("at_")}
    for name, array in at.items():
        _check_layout(path, f"at_{name}", array, "float32 with 2 dimensions")
    plain = {name: arrays[name] for name in _LAYOUT if name != "finite"}
    meta = parse_json(metadata.get("meta", "{}"), f"{path}: meta")
    _check_lacks(path, meta)
    return Scores(
        arm=metadata["arm"],
        finite=arrays["finite"] != 0,
        at=at,
        meta=meta,
        **plain,
    )


def _check_lacks(path: Path, meta: dict[str, Any]) -> None:
    lacks = meta.get("lacks", [])
    if not isinstance(lacks, list) or not set(map(str, lacks)) <= LACKING:
        raise MalformedScoresError(
            "what the scores lack is nothing that scores can lack",
            where=f"{path}: meta.lacks", actual=lacks, expected=", ".join(sorted(LACKING)),
        )  # fmt: skip


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("schema") != SCHEMA or metadata.get("arm") not in ARMS:
        raise MalformedScoresError(
            "not a score file of this version",
            where=str(path),
            actual=metadata,
            expected=f"schema {SCHEMA}, arm one of {', '.join(ARMS)}",
        )


def _check_layout(path: Path, name: str, array: NDArray[Any], expected: str) -> None:
    actual = f"{array.dtype.name} with {array.ndim} dimensions"
    if actual != expected:
        raise MalformedScoresError(
            f"{name} has another layout", where=str(path), actual=actual, expected=expected
        )


def check_scores(scores: Scores, tokens: TokenizedSuite, *, where: str) -> None:
    """Raises MalformedScoresError unless every number can be what the format says it is."""
    expected = np.cumsum([0, *(prompt.positions for prompt in tokens.prompts)])
    if not np.array_equal(scores.offsets, expected):
        raise MalformedScoresError(
            "the scores are of other prompts than the tokens",
            where=where,
            actual=f"{scores.prompts} prompts, offsets {scores.offsets[:4]}…",
            expected=f"{len(tokens.prompts)} prompts, offsets {expected[:4]}…",
            remedy="score the suite again with this tokens file",
        )
    _check_shapes(scores, where)
    _check_ids(scores, tokens.vocab_size, where)
    _check_logprobs(scores.top_logprobs, scores.finite, "top_logprobs", where)
    for name, array in scores.at.items():
        _check_logprobs(array, scores.finite, f"at_{name}", where)
    _check_logprobs(scores.target_logprobs[:, None], scores.finite, "target_logprobs", where)
    if not scores.of_choices:
        _check_targets(scores, tokens, where)
    _check_greedy(scores, where)


def _check_greedy(scores: Scores, where: str) -> None:
    steps = scores.greedy_logprobs[scores.greedy_ids != -1]
    known = steps[~np.isnan(steps)]
    if known.size and (np.isinf(known).any() or known.max() > MASS_TOLERANCE):
        raise MalformedScoresError(
            "greedy_logprobs holds what is no log-probability",
            where=where,
            actual=f"{known.max():.6g}",
            expected="at most 0, or NaN where the logits were not finite",
        )


def _check_shapes(scores: Scores, where: str) -> None:
    rows = {
        "top_ids": scores.top_ids,
        "top_logprobs": scores.top_logprobs,
        "target_logprobs": scores.target_logprobs,
        "finite": scores.finite,
        **{f"at_{name}": array for name, array in scores.at.items()},
    }
    for name, array in rows.items():
        if len(array) != scores.positions:
            raise MalformedScoresError(
                f"{name} has another length", where=where, actual=len(array),
                expected=scores.positions,
            )  # fmt: skip
    if scores.top_ids.shape != scores.top_logprobs.shape or scores.top_ids.shape[1] == 0:
        raise MalformedScoresError("top_ids and top_logprobs do not match", where=where)
    if scores.greedy_ids.shape != scores.greedy_logprobs.shape or (
        len(scores.greedy_ids) != scores.prompts
    ):
        raise MalformedScoresError("the greedy continuations do not match", where=where)


def _check_ids(scores: Scores, vocab_size: int, where: str) -> None:
    ids = scores.top_ids
    greedy = scores.greedy_ids
    if ids.min() < 0 or ids.max() >= vocab_size or greedy.min() < -1 or greedy.max() >= vocab_size:
        raise MalformedScoresError(
            "a token id is outside the vocabulary", where=where, expected=f"0 to {vocab_size - 1}"
        )
    ordered = np.sort(ids, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise MalformedScoresError("a row names the same token twice", where=where)
    ended = greedy == -1
    if (ended[:, :-1] & ~ended[:, 1:]).any():
        raise MalformedScoresError("a greedy continuation goes on after its end", where=where)


def _check_logprobs(array: Floats, finite: NDArray[np.bool_], name: str, where: str) -> None:
    rows = array[finite].astype(np.float64)
    if not np.isfinite(rows).all():
        raise MalformedScoresError(
            f"{name} is not finite in a row that is marked finite", where=where
        )
    if rows.size == 0:
        return
    if rows.max() > MASS_TOLERANCE or np.exp(rows).sum(axis=1).max() > 1 + MASS_TOLERANCE:
        raise MalformedScoresError(
            f"{name} holds more than all of the probability",
            where=where,
            actual=f"{np.exp(rows).sum(axis=1).max():.6f}",
            expected="at most 1",
        )
    if name == "top_logprobs" and (np.diff(rows, axis=1) > 0).any():
        raise MalformedScoresError("top_logprobs is not in descending order", where=where)


def _check_targets(scores: Scores, tokens: TokenizedSuite, where: str) -> None:
    """Compares the two places where a target's log-probability may stand in one file."""
    targets = np.concatenate([np.asarray(prompt.ids[1:]) for prompt in tokens.prompts])
    hit = (scores.top_ids == targets[:, None]) & scores.finite[:, None]
    row, column = np.nonzero(hit)
    difference = np.abs(scores.top_logprobs[row, column] - scores.target_logprobs[row])
    if difference.size and difference.max() > MASS_TOLERANCE:
        raise MalformedScoresError(
            "target_logprobs are not of the tokens that follow",
            where=where,
            actual=f"differs from top_logprobs by {difference.max():.4f}",
            expected=f"at most {MASS_TOLERANCE}",
            remedy="the arm scores other tokens, or shifts them by one",
        )
