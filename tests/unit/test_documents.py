"""The JSON reader: one value for everybody, or an InputError that names the file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.documents import parse_json, read_json, read_json_object
from enginekeeper.errors import InputError


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":\n}', "d.json:2: not JSON"),
        ("\udcff", "not UTF-8 at byte 0"),
        ('{"a": "\\udc80"}', "half of a surrogate"),
    ],
)
def test_what_is_not_one_document_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text.encode(errors="surrogateescape"), "d.json")

    assert str(caught.value).startswith("d.json")
    assert complaint in str(caught.value)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(r'["\ud83d\ude00"]', "d.json") == ["\U0001f600"]


def test_a_directory_and_a_loop_of_links_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "loop", tmp_path / ("x" * 5000)):
        with pytest.raises(InputError, match="cannot be read"):
            read_json(path)


def test_a_list_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        read_json_object(tmp_path / "d.json")


def test_a_file_beyond_all_reason_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.documents._LARGEST", 4)
    (tmp_path / "d.json").write_text("[1,2]")
    with pytest.raises(InputError, match="5 bytes"):
        read_json(tmp_path / "d.json")


@given(st.binary(max_size=100))
def test_bytes_of_any_kind_are_a_value_or_an_input_error(data: bytes) -> None:
    with suppress(InputError):
        parse_json(data, "d.json")
