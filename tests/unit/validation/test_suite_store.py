from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation import suite_store
from enginekeeper.validation.suite_store import DIGESTS, SuiteStore
from enginekeeper.validation.suites import SUITES
from registry.errors import IntegrityError


@pytest.fixture
def store(tmp_path: Path) -> SuiteStore:
    return SuiteStore(tmp_path / "suites")


def samples(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "traffic.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_bundled_suites_are_recorded_and_open(store: SuiteStore) -> None:
    recorded = {entry.full_name for entry in store.entries()}

    assert recorded == {path.stem for path in SUITES.glob("*.jsonl")}
    assert len(store.open("smoke").prompts) == 24
    assert store.open("deep-v1").digest == store.find("deep").digest


def test_samples_are_added_and_found_again(store: SuiteStore, tmp_path: Path) -> None:
    entry = store.add(
        store.plan(samples(tmp_path, {"text": "one"}, {"text": "two", "id": "b"}), "desk")
    )

    suite = store.open("desk")
    assert (entry.full_name, entry.bundled) == ("desk-v1", False)
    assert [(p.id, p.stratum, p.text) for p in suite.prompts] == [
        ("sample-1", "traffic", "one"),
        ("b", "traffic", "two"),
    ]
    assert suite.digest == entry.digest


def test_the_same_samples_again_are_no_new_version(store: SuiteStore, tmp_path: Path) -> None:
    first = store.add(store.plan(samples(tmp_path, {"text": "one"}), "desk"))

    assert store.add(store.plan(samples(tmp_path, {"text": "one"}), "desk")) == first
    assert store.add(store.plan(samples(tmp_path, {"text": "other"}), "desk")).version == 2
    assert store.open("desk-v1").prompts[0].text == "one"
    assert store.open("desk").prompts[0].text == "other"


def test_texts_with_separators_of_lines_survive(store: SuiteStore, tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour"

    store.add(store.plan(samples(tmp_path, {"text": text}), "desk"))

    assert store.open("desk").prompts[0].text == text


def test_a_suite_that_was_edited_is_refused(store: SuiteStore, tmp_path: Path) -> None:
    entry = store.add(store.plan(samples(tmp_path, {"text": "one"}), "desk"))
    entry.path.write_text(entry.path.read_text().replace("one", "two"))

    with pytest.raises(IntegrityError, match="not the one that was named"):
        store.open("desk")


def test_a_bundled_suite_that_was_edited_is_refused(tmp_path: Path) -> None:
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    for name in (DIGESTS, "smoke-v1.jsonl"):
        (bundled / name).write_bytes((SUITES / name).read_bytes())
    (bundled / "smoke-v1.jsonl").write_bytes(
        (SUITES / "smoke-v1.jsonl").read_bytes().replace(b"ferry", b"ferrz")
    )

    with pytest.raises(IntegrityError):
        SuiteStore(tmp_path / "own", bundled).open("smoke")


def test_an_unknown_suite_is_refused_with_those_there_are(store: SuiteStore) -> None:
    with pytest.raises(MissingError) as caught:
        store.find("nothing")

    assert caught.value.expected == "deep, smoke, standard"


@pytest.mark.parametrize("name", ["smoke", "Desk", "../x", "desk-v2", "", "a" * 65, "-a"])
def test_a_name_that_cannot_be_is_refused(store: SuiteStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        store.plan(samples(tmp_path, {"text": "one"}), name)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x"}, "not a sample"),
        ({"text": "x", "more": 1}, "not a sample"),
        (["x"], "not a sample"),
        ({"text": "  "}, "text is not a text"),
        ({"text": 3}, "text is not a text"),
        ({"text": "x", "id": None}, "id is not a text"),
    ],
)
def test_a_line_that_is_no_sample_is_named(
    store: SuiteStore, tmp_path: Path, row: object, said: str
) -> None:
    path = samples(tmp_path, {"text": "good"}, row)

    with pytest.raises(InputError, match=said) as caught:
        store.plan(path, "desk")
    assert caught.value.where == f"{path}:2"


def test_too_much_is_refused(
    store: SuiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = samples(tmp_path, {"text": "one"}, {"text": "two"})
    for limit, said in (("LARGEST_TEXT", "usable length"), ("MOST_PROMPTS", "too many prompts"),
                        ("LARGEST_FILE", "too large")):  # fmt: skip
        monkeypatch.setattr(suite_store, limit, 1)
        with pytest.raises(InputError, match=said):
            store.plan(path, "desk")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"{not json"])
def test_a_file_without_samples_is_refused(
    store: SuiteStore, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)

    with pytest.raises(InputError):
        store.plan(path, "desk")


def test_a_file_that_is_not_there_is_missing(store: SuiteStore, tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        store.plan(tmp_path / "none", "desk")
