"""The engine key: what changes the digest, what does not, and how two keys are compared."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import canonical_json
from registry.errors import InvalidRecordError
from registry.keys import HARD_FIELDS, SOFT_FIELDS, EngineKey, FieldDifference, Layer, compare

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
exact = st.recursive(
    text | st.booleans() | st.integers(-(2**53), 2**53),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=4,
)
optional_hard = st.dictionaries(
    st.sampled_from(sorted(HARD_FIELDS.keys() - {"builder", "weights"})), exact, max_size=6
)
hard_layers = optional_hard.map(lambda more: {"builder": "inductor", "weights": "w", **more})
soft_layers = st.dictionaries(st.sampled_from(sorted(SOFT_FIELDS)), exact, max_size=3)
info_layers = st.dictionaries(
    text, exact | st.floats(allow_nan=False, allow_infinity=False), max_size=3
)
keys = st.builds(EngineKey, hard_layers, soft_layers, info_layers)


@given(keys)
def test_a_key_reads_back_as_itself(key: EngineKey) -> None:
    again = EngineKey.from_dict(json.loads(json.dumps(key.as_dict())))
    assert again == key
    assert again.digest() == key.digest()
    assert compare(key, again) == []


@given(keys, soft_layers, info_layers)
def test_only_hard_fields_change_the_digest(
    key: EngineKey, soft: dict[str, Any], info: dict[str, Any]
) -> None:
    assert EngineKey(key.hard, soft, info).digest() == key.digest()


@given(keys, st.sampled_from(sorted(HARD_FIELDS)), exact)
def test_any_hard_field_changes_the_digest(key: EngineKey, name: str, value: object) -> None:
    changed = EngineKey({**key.hard, name: value}, key.soft, key.info)
    differences = compare(key, changed)
    assert (changed.digest() == key.digest()) is (differences == [])
    assert all(
        difference == FieldDifference(Layer.HARD, name, key.hard.get(name), value)
        for difference in differences
    )


@given(keys)
def test_an_absent_field_and_none_are_the_same(key: EngineKey) -> None:
    filled = {**dict.fromkeys(HARD_FIELDS), **key.hard}
    assert EngineKey(filled, key.soft, key.info).digest() == key.digest()


NAN = float("nan")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(["recipe", "driver", "note"]), anything)
def test_a_key_takes_exactly_what_is_one_json_text(name: str, value: object) -> None:
    layers: list[dict[str, Any]] = [{"builder": "b", "weights": "w"}, {}, {}]
    layers[["recipe", "driver", "note"].index(name)][name] = value
    assert _is_refused(lambda: EngineKey(*layers)) is (
        _is_refused(lambda: canonical_json(value))
        or "\\u0000" in json.dumps(value)
        or (name != "note" and _has_fraction(value))
    )


def _is_refused(make: Callable[[], object]) -> bool:
    try:
        make()
    except InvalidRecordError:
        return True
    return False


def _has_fraction(value: object) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, float) or any(map(_has_fraction, inside))


@pytest.mark.parametrize("layer", Layer)
@pytest.mark.parametrize(
    "value",
    [{"a": {1: "b"}}, "\ud800", {"\ud800": 1}, ["a\x00"], {"\x00": 1}, 10**5000, b"x", NAN],
    ids=["a number for a name", "half a pair", "half a pair for a name", "NUL", "NUL for a name",
         "too many digits", "bytes", "NaN"],
)  # fmt: skip
def test_what_no_json_text_stands_for_is_refused(layer: Layer, value: object) -> None:
    name = {Layer.HARD: "recipe", Layer.SOFT: "driver", Layer.INFO: "note"}[layer]
    fields: dict[str, Any] = {"builder": "b", "weights": "w"} if layer is Layer.HARD else {}
    layers = {Layer.HARD: {"builder": "b", "weights": "w"}, layer: {**fields, name: value}}
    with pytest.raises(InvalidRecordError, match="hashes the same everywhere"):
        EngineKey(*(layers.get(one, {}) for one in Layer))


@given(keys, keys)
def test_a_comparison_is_symmetric(a: EngineKey, b: EngineKey) -> None:
    mirrored = [FieldDifference(d.layer, d.field, d.b, d.a) for d in compare(b, a)]
    assert compare(a, b) == mirrored


def test_differences_come_hard_first() -> None:
    a = EngineKey.of(builder="b", weights="w", torch="2.13", driver="580", info={"host": "x"})
    b = EngineKey.of(builder="b", weights="w", torch="2.14", driver="581", info={"host": "y"})
    assert [(str(d.layer), d.field) for d in compare(a, b)] == [
        ("hard", "torch"), ("soft", "driver"), ("info", "host"),
    ]  # fmt: skip


def test_true_and_one_are_not_the_same() -> None:
    one = EngineKey.of(builder="b", weights="w", recipe=1)
    true = EngineKey.of(builder="b", weights="w", recipe=True)
    assert one.digest() != true.digest()
    assert len(compare(one, true)) == 1


@pytest.mark.parametrize(
    ("hard", "soft"),
    [
        ({"builder": "b", "weights": "w", "tensor_rt": "10"}, {}),
        ({"builder": "b", "weights": "w", "driver": "580"}, {}),
        ({"builder": "b", "weights": "w"}, {"torch": "2"}),
        ({"builder": "b", "weights": "w", "recipe": 1.0}, {}),
        ({"builder": "b", "weights": "w", "recipe": "a\x00"}, {}),
        ({"builder": "b", "weights": "w", "recipe": {"x": [0.5]}}, {}),
        ({"builder": "b"}, {}),
    ],
    ids=[
        "misspelt",
        "soft as hard",
        "hard as soft",
        "fraction",
        "NUL",
        "deep fraction",
        "no weights",
    ],
)
def test_a_key_that_would_miss_silently_is_refused(
    hard: dict[str, Any], soft: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRecordError):
        EngineKey(hard, soft)


def test_a_key_travels_through_pickle() -> None:
    key = EngineKey.of(builder="inductor", weights="w", instruction_set=["avx2"])
    assert pickle.loads(pickle.dumps(key)) == key  # noqa: S301 - our own bytes


OLD = EngineKey.of(builder="inductor", weights="sha256:0", recipe="w8a16", torch="2.13.0")
MADE_BY: dict[str, Any] = {
    "quantizer_lock": "sha256:1", "quantizer_code": "ek-steps-v1:2", "repair_code": "ek-code-v1:3",
    "builder_lock": "sha256:4", "builder_code": "ek-steps-v1:5",
}  # fmt: skip
NEW = EngineKey.of(**OLD.hard, **MADE_BY)


def test_the_schemes_are_pinned() -> None:
    """Changing what is hashed without a new scheme name would turn every look-up into a miss."""
    assert [str(key.digest()) for key in (OLD, NEW)] == [
        "ek-key-v1:594141465bdf7265319424d626f5d32db28102e212e0e36adc9676936d23f4f2",
        "ek-key-v2:2ea222382cf5fa2f5981210fc353e2865998f44c7b6f541c152a9dbd55cd8abc",
    ]


@pytest.mark.parametrize("name", MADE_BY)
def test_each_field_that_says_what_made_an_engine_is_of_the_second_scheme(name: str) -> None:
    key = EngineKey.of(**OLD.hard, **{name: MADE_BY[name]})
    assert key.digest().scheme == "ek-key-v2"


def test_a_comparison_with_an_older_key_shows_what_that_lacks() -> None:
    assert [(d.field, d.a, d.b) for d in compare(OLD, NEW)] == [
        (name, None, MADE_BY[name]) for name in sorted(MADE_BY)
    ]
