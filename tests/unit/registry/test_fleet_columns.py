"""Documents of many rows are decoded together, and are what each would be alone."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from registry.fleet.columns import documents, documents_by_row

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.lists(values))
def test_documents_decoded_together_are_what_each_is(made: list[object]) -> None:
    texts = [json.dumps(one, ensure_ascii=False) for one in made]
    assert documents(texts) == made
    assert documents_by_row(enumerate(texts)) == dict(enumerate(made))
