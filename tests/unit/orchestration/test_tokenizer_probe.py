"""Which tokenizer is held against the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.configs.vllm_bundle import MODEL
from enginekeeper.errors import InputError
from enginekeeper.orchestration.tokenizer_probe import shipped_with


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
