"""The shipped cases: what sources say of engines in places, and that the rules say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginekeeper.compatibility.cases import SHIPPED, RuleCase, read_cases
from enginekeeper.compatibility.decision import VERDICT_RULES, place_rules
from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import InputError

CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rules_say_what_the_source_of_the_case_says(case: RuleCase) -> None:
    assert case.fault() is None
    assert case.source


def test_there_are_enough_cases_and_each_is_told_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert {case.expected for case in CASES} == set(Effect) - {Effect.NOTE}


def test_every_rule_has_a_case_in_which_it_fires() -> None:
    fired = {one.rule.identifier for case in CASES for one in case.decision().fired}
    known = {rule.identifier for rule in (*place_rules(), *VERDICT_RULES)}
    assert known - fired == {"gsp-firmware-differs"}  # of one table row with vbios and container


def test_a_case_that_is_not_met_says_what_was_decided(tmp_path: Path) -> None:
    document = json.loads(SHIPPED.read_text())
    first = document["cases"][0]
    document["cases"] = [{**first, "expect": "refuse"}, {**first, "rules": ["mig-profile"]}]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(document))

    faults = [case.fault() for case in read_cases(file)]

    assert faults == [
        "reuse by qualified, expected refuse", "mig-profile did not fire; qualified did",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"expect": "perhaps"}, {"judged": ["maybe"]}, {"judged": 5}, {"engine": {"base": "none"}},
        {"engine": {"base": "h100", "colour": "red"}}, {"place": {"base": "h100", "x": 1}},
        {"place": {"base": "h100", "environment": {"kind": "tpu"}}}, {"scope": "any"},
        {"place": {"base": "h100", "on": "today"}}, {"portability": {"hardware": "all"}},
        {"rules": 5}, {"place": []},
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_read_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    document = json.loads(SHIPPED.read_text())
    document["cases"] = [{**document["cases"][0], **change}]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_cases(file)
    assert str(caught.value.where) == f"{file}: case 1"


@pytest.mark.parametrize("text", ["[]", "{}", '{"cases": 5}'])
def test_a_file_without_cases_is_invalid_input(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cases.json"
    file.write_text(text)
    with pytest.raises(InputError):
        read_cases(file)
