"""Digests: one document, one digest; other documents, other digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import (
    Digest,
    canonical_json,
    digest_bytes,
    digest_document,
    digest_file,
)
from registry.errors import InvalidRecordError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=12,
)


@given(st.binary())
def test_a_digest_reads_back_as_itself(data: bytes) -> None:
    digest = digest_bytes(data)
    assert Digest.parse(str(digest)) == digest
    assert digest.value == hashlib.sha256(data).hexdigest()


@given(values)
def test_canonical_json_reads_back_as_the_same_document(document: object) -> None:
    assert json.loads(canonical_json(document)) == document
    assert canonical_json(json.loads(canonical_json(document))) == canonical_json(document)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values))
def test_the_order_of_fields_does_not_matter(document: dict[str, Any]) -> None:
    turned = dict(reversed(document.items()))
    assert digest_document(turned, "x-v1") == digest_document(document, "x-v1")


@given(values, values)
def test_different_documents_have_different_digests(a: object, b: object) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (digest_document(a, "x-v1") == digest_document(b, "x-v1")) is same


@pytest.mark.parametrize(
    "document",
    [float("nan"), float("inf"), {1: "a", "1": "b"}, "\ud800", object(), {"a": {2: 3}}],
    ids=["nan", "infinity", "two keys in one", "lone surrogate", "object", "deep number key"],
)
def test_what_is_not_json_is_refused(document: object) -> None:
    with pytest.raises(InvalidRecordError, match="not a JSON document"):
        canonical_json(document)


def test_an_endless_document_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidRecordError):
        canonical_json(loop)


@pytest.mark.parametrize(
    "text", ["", "abc", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "SHA:" + "a" * 64]
)
def test_what_is_not_a_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError, match="not a digest"):
        Digest.parse(text)


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert digest_file(tmp_path / "file") == digest_bytes(b"x" * 3_000_000)
