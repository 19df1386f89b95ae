"""The calibration text that ships: enough of it, mixed, well formed, and free to use."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import enginekeeper

FOLDER = Path(enginekeeper.__file__).parent / "data" / "calibration"


@pytest.fixture(scope="module")
def samples() -> list[dict[str, str]]:
    lines = (FOLDER / "mixed-v1.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_there_are_enough_samples_and_no_two_are_alike(samples: list[dict[str, str]]) -> None:
    assert len(samples) >= 64
    assert len({sample["id"] for sample in samples}) == len(samples)
    assert len({sample["text"] for sample in samples}) == len(samples)


def test_every_sample_says_what_it_is_and_has_some_length(samples: list[dict[str, str]]) -> None:
    for sample in samples:
        assert set(sample) == {"id", "stratum", "text"}
        assert sample["id"].startswith(sample["stratum"])
        assert 120 <= len(sample["text"]) <= 700, sample["id"]


def test_code_chat_numbers_and_several_scripts_are_in_it(samples: list[dict[str, str]]) -> None:
    strata = Counter(sample["stratum"] for sample in samples)
    assert {"prose", "code", "chat", "numbers", "markup", "mathematics"} <= set(strata)
    text = "".join(sample["text"] for sample in samples)
    scripts = {"Greek": "ή", "Cyrillic": "д", "Hebrew": "ב", "Arabic": "ق", "Han": "口"}
    scripts |= {"Hangul": "는", "Kana": "の", "Devanagari": "का"}
    for name, letters in scripts.items():
        assert letters[0] in text, name


def test_the_licence_is_beside_the_text() -> None:
    assert "CC0-1.0" in (FOLDER / "README.md").read_text(encoding="utf-8")
