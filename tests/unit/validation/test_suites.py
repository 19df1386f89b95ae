from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation.suites import (
    SUITES,
    Prompt,
    Suite,
    bundled_suite,
    load_suite,
)
from registry.digests import Digest
from registry.errors import IntegrityError

PUBLISHED = {
    "deep-v1.jsonl": "551082949d4566238bc539e087950e207c353871be44a9376570ad6c5a4ea632",
    "smoke-v1.jsonl": "d437eb23a87012b8094606eb54d8efe6013a8fb104b4485ca465f93a612b8f67",
    "standard-v1.jsonl": "e21eaac8520a47be336e1b171998b5a788053d48edf4e3a5220aa96da74db592",
}
"""A published suite never changes: a digest here may be added, never edited."""

GOOD = {"id": "a", "stratum": "prose", "text": "One."}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_every_bundled_suite_is_published_and_unchanged() -> None:
    found = {path.name: load_suite(path).digest.value for path in SUITES.glob("*.jsonl")}

    assert found == PUBLISHED


def test_the_smoke_suite_covers_its_strata() -> None:
    suite = load_suite(bundled_suite("smoke"))

    strata = [prompt.stratum for prompt in suite.prompts]

    assert len(suite.prompts) == 24
    assert sorted(set(strata)) == [
        "chat",
        "code",
        "digits",
        "json",
        "legal",
        "mathematics",
        "prose",
        "scripts",
    ]
    assert all(strata.count(stratum) == 3 for stratum in strata)


def test_the_standard_suite_begins_with_the_smoke_suite() -> None:
    smoke, standard = (load_suite(bundled_suite(name)) for name in ("smoke", "standard"))

    assert standard.prompts[: len(smoke.prompts)] == smoke.prompts


def test_the_digest_depends_on_the_prompts_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    spaced = tmp_path / "b.jsonl"
    spaced.write_text(f"\n{json.dumps(GOOD, indent=None, sort_keys=True)}\n\n", encoding="utf-8")

    assert load_suite(path).digest == load_suite(spaced).digest
    assert load_suite(path).digest.scheme == "ek-suite-v1"


@given(st.permutations([Prompt("a", "s", "x"), Prompt("b", "s", "y"), Prompt("c", "t", "x")]))
def test_another_order_is_another_suite(prompts: list[Prompt]) -> None:
    original = (Prompt("a", "s", "x"), Prompt("b", "s", "y"), Prompt("c", "t", "x"))

    same = Suite(Path(), tuple(prompts)).digest == Suite(Path(), original).digest

    assert same == (tuple(prompts) == original)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a prompt"),
        (json.dumps({**GOOD, "extra": 1}), "not a prompt"),
        (json.dumps({"id": "a", "text": "b"}), "not a prompt"),
        (json.dumps({**GOOD, "text": " "}), "text is not a text"),
        (json.dumps({**GOOD, "id": 3}), "id is not a text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")

    with pytest.raises(InputError, match=message) as caught:
        load_suite(path)

    assert caught.value.where == f"{path}:2"


def test_two_prompts_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same id"):
        load_suite(write(tmp_path / "twice.jsonl", GOOD, GOOD))


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prompts"):
        load_suite(write(tmp_path / "empty.jsonl"))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"id": "\xe9"}')

    with pytest.raises(InputError, match="UTF-8"):
        load_suite(path)


def test_a_suite_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)

    with pytest.raises(IntegrityError, match="not the one that was named"):
        load_suite(path, expected=Digest("ek-suite-v1", "0" * 64))


def test_unknown_names_and_files_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such probe suite") as caught:
        bundled_suite("nothing")
    assert "smoke" in str(caught.value.expected)

    with pytest.raises(MissingError):
        load_suite(tmp_path / "none.jsonl")
