"""Which tokenizer is held against the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.configs.vllm_bundle import MODEL
from enginekeeper.errors import InputError
from enginekeeper.orchestration.tokenizer_probe import files_of, shipped_with


def with_tokenizer(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_a_bundles_own_tokenizer_is_looked_at_whatever_is_named(tmp_path: Path) -> None:
    own = with_tokenizer(tmp_path / "engine" / MODEL)
    named = with_tokenizer(tmp_path / "named")
    assert shipped_with(tmp_path / "engine", str(named)) == own


def test_an_engine_without_a_tokenizer_is_served_by_the_one_that_is_named(tmp_path: Path) -> None:
    named = with_tokenizer(tmp_path / "named")
    assert shipped_with(tmp_path / "engine", str(named)) == named
    assert shipped_with(tmp_path / "engine", None) is None


def test_what_is_named_has_to_be_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tokenizer is missing"):
        shipped_with(tmp_path / "engine", str(tmp_path))


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "vocab.txt", "additional_chat_templates/tool_use.jinja"]
)
def test_a_file_that_transformers_reads_names_what_is_compared(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("one")
    before = files_of(tmp_path)
    (tmp_path / name).write_text("other")

    after = files_of(tmp_path)

    assert list(after) == [name]
    assert after != before


def test_a_file_too_large_for_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "vocab.txt").open("wb") as handle:
        handle.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="too large"):
        files_of(tmp_path)
