from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.pieces import NO_PIECES, Pieces, read_pieces


def written(tmp_path: Path, **document: Any) -> Pieces:  # noqa: ANN401 - any JSON value
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return read_pieces(tmp_path)


def test_bytes_written_as_characters_are_read_back(tmp_path: Path) -> None:
    pieces = written(
        tmp_path,
        model={"type": "BPE", "vocab": {"Ġriver": 0, "Ċ": 1, "Ã©": 2, "Ø": 3}},
        pre_tokenizer={"type": "ByteLevel"},
    )

    assert [pieces.text(n) for n in range(5)] == [" river", "\n", "é", "\\xd8", "[4]"]


def test_pieces_of_words_are_read_from_a_list(tmp_path: Path) -> None:
    pieces = written(tmp_path, model={"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.0]]})

    assert (pieces.text(0), pieces.text(1)) == ("<unk>", " a")


def test_added_tokens_are_themselves_and_special_where_they_say_so(tmp_path: Path) -> None:
    pieces = written(
        tmp_path,
        model={"vocab": {"a": 0}},
        added_tokens=[
            {"id": 7, "content": "<|end|>", "special": True},
            {"id": 8, "content": "plain", "special": False},
        ],
    )

    assert (pieces.text(7), pieces.kind(7), pieces.kind(8)) == ("<|end|>", "special", "rare")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" word", "other"), ("12", "digits"), (" x2", "digits"), ("();", "punctuation"),
        ("\n\n", "punctuation"), (" река", "non-Latin"), ("日本", "non-Latin"), ("été", "other"),
    ],
)  # fmt: skip
def test_tokens_fall_into_classes(text: str, kind: str) -> None:
    assert Pieces({0: text, **dict.fromkeys(range(1, 10), "")}).kind(0) == kind


def test_late_tokens_are_rare_and_unknown_ones_special() -> None:
    pieces = Pieces({number: f"w{chr(97 + number)}" for number in range(10)})

    assert (pieces.kind(7), pieces.kind(8), pieces.kind(99)) == ("other", "rare", "special")


@pytest.mark.parametrize(
    "document", [{}, {"model": []}, {"model": {"vocab": 3}}, {"added_tokens": [3, {"id": "x"}]}]
)
def test_a_file_without_a_vocabulary_tells_no_text(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    assert written(tmp_path, **document).texts == {}


def test_a_model_without_the_file_tells_no_text(tmp_path: Path) -> None:
    assert read_pieces(tmp_path) is NO_PIECES


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError):
        read_pieces(tmp_path)
