"""Documents from outside: one meaning, or none."""

from __future__ import annotations

import pytest

from registry import documents
from registry.documents import check_schema, read_object
from registry.errors import InvalidRecordError


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"a"',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1,"a":1}',
        b"\xff",
        b"{",
        b'{"a":"\\ud800"}',
        b'{"\\uDFFF":1}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-8-sig"),
    ],
)
def test_what_is_no_plain_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="here"):
        read_object(data, where="here")


def test_a_document_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    assert read_object(b'{"a": 123}', where="here") == {"a": 123}
    with pytest.raises(InvalidRecordError, match="too large"):
        read_object(b'{"a": 1234}', where="here")


def test_an_unknown_version_is_refused() -> None:
    check_schema({"schema": 1}, 1, where="here")
    with pytest.raises(InvalidRecordError, match="an unknown version"):
        check_schema({"schema": 2}, 1, where="here")


@pytest.mark.parametrize("data", [b'{"a":1}', b'{"b":{"a":1,"c":2}}'])
def test_what_is_one_is_read(data: bytes) -> None:
    assert read_object(data, where="here")
