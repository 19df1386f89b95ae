from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginekeeper.toolchains.errors import MalformedResultError, StepPlace, StepRefusedError
from enginekeeper.toolchains.results import StepOutcome, read_result

GOOD: dict[str, Any] = {
    "schema": 1,
    "step": "probe",
    "ok": True,
    "outputs": {"a": 1},
    "versions": {"python": "3.11"},
    "seconds": 0.5,
}
REFUSAL = {**GOOD, "ok": False, "error": {"kind": "k", "message": "m"}}
Read = Callable[[object], StepOutcome]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    place = StepPlace("probe", "shell", tmp_path / "step.log")

    def read_text(document: object) -> StepOutcome:
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "result.json").write_text(text)
        return read_result(tmp_path / "result.json", place, seconds=2.0)

    return read_text


def test_a_good_result_is_returned_with_the_time_of_the_whole_process(read: Read) -> None:
    outcome = read(GOOD)

    assert (outcome.outputs, outcome.versions) == ({"a": 1}, {"python": "3.11"})
    assert outcome.seconds == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2), ("schema", None), ("step", "other"), ("ok", "yes"), ("ok", 1),
        ("outputs", []), ("versions", {"torch": 2}), ("versions", None),
        ("seconds", "1"), ("seconds", True), ("seconds", -1), ("seconds", None),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(read: Read, field: str, value: object) -> None:
    with pytest.raises(MalformedResultError, match=field):
        read({**GOOD, field: value})


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_missing_field_is_named(read: Read, field: str) -> None:
    with pytest.raises(MalformedResultError, match=field):
        read({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize(
    "error",
    [
        None, "text", {}, {"kind": "k"}, {"message": "m"}, {"kind": "k", "message": 1},
        {"kind": "k", "message": "m", "surprise": "s"},
    ],
)  # fmt: skip
def test_a_refusal_in_another_form_is_malformed(read: Read, error: object) -> None:
    with pytest.raises(MalformedResultError, match="error"):
        read({**REFUSAL, "error": error})


def test_a_refusal_is_raised_with_its_kind(read: Read) -> None:
    with pytest.raises(StepRefusedError) as caught:
        read(REFUSAL)

    assert (caught.value.kind, caught.value.what) == ("k", "m")


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 100_000, '"text"'])
def test_what_is_not_an_object_is_malformed(read: Read, text: str) -> None:
    with pytest.raises(MalformedResultError):
        read(text)


def test_a_result_beyond_all_measure_is_not_read(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.toolchains.results._LARGEST", 10)

    with pytest.raises(MalformedResultError, match="size"):
        read(GOOD)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([GOOD, REFUSAL]), st.sampled_from([*sorted(GOOD), "error"]), _JSON)
def test_any_result_gives_an_outcome_or_a_step_error(
    read: Read, base: dict[str, Any], field: str, value: object
) -> None:
    try:
        outcome = read({**base, field: value})
    except (MalformedResultError, StepRefusedError):
        return
    assert isinstance(outcome.outputs, dict)
