"""`ek rules`: what is listed, shown and tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginekeeper.cli._errors import ExitCode
from enginekeeper.compatibility.cases import SHIPPED, read_cases
from enginekeeper.compatibility.check import RULES
from enginekeeper.compatibility.decision import VERDICT_RULES, place_rules

Ek = Callable[..., Any]


def test_every_rule_is_listed_with_statement_and_source(ek: Ek) -> None:
    rows = ek("rules", "list", "--json").json
    assert len(rows) == len(RULES) + len(place_rules()) + len(VERDICT_RULES)
    assert all(row["statement"].endswith(".") and row["source"] for row in rows)
    text = ek("rules", "list", "--asked", "verdict").out
    assert "failed-there" in text
    assert "fp8-needs-8.9" not in text


def test_a_rule_that_only_cases_reach_is_listed_as_such(ek: Ek) -> None:
    reached = {row["rule"]: row["reached"] for row in ek("rules", "list", "--json").json}
    beyond = {
        "forward-compatibility", "forward-compatibility-used", "hardware-compatible-plan",
        "tensorrt-version", "tensorrt-llm-version", "version-compatible-plan",
    }  # fmt: skip
    assert {rule for rule in beyond if reached[rule]} == set()
    assert reached["driver-runs-cuda"]
    assert reached["driver-branch-ended"]
    assert "cases alone" in ek("rules", "show", "tensorrt-version").out
    assert "cases alone" not in ek("rules", "show", "gpu-product").out


def test_an_identifier_is_one_rule_of_each_kind(ek: Ek) -> None:
    rows = ek("rules", "list", "--json").json
    pairs = [(row["rule"], row["asked"]) for row in rows]
    assert len(set(pairs)) == len(pairs)
    shared = {rule for rule, _ in pairs if sum(one == rule for one, _ in pairs) > 1}
    assert shared == {"driver-runs-cuda"}
    statements = {row["statement"] for row in rows if row["rule"] in shared}
    assert len(statements) == 1


def test_a_rule_is_shown_with_its_source_and_cases(ek: Ek) -> None:
    said = ek("rules", "show", "forward-compatibility", "--json")
    assert said.json["rules"][0]["needs"] == ["cuda_compat"]
    assert {one["decided"] for one in said.json["cases"]} == {"refuse"}
    assert "Triton release notes 26.04" in ek("rules", "show", "forward-compatibility").out


def test_a_rule_that_is_none_exits_4_with_a_near_one(ek: Ek) -> None:
    for command in ("show", "test"):
        said = ek("rules", command, "mig-profil")
        assert said.code == ExitCode.NOT_FOUND
        assert "mig-profile" in said.err


def test_the_shipped_cases_are_as_expected(ek: Ek) -> None:
    said = ek("rules", "test", "--json")
    assert (said.code, len(said.json)) == (ExitCode.OK, len(read_cases()))
    assert len(ek("rules", "test", "mig-profile", "--json").json) < len(read_cases())


def test_a_case_that_is_not_met_exits_5(ek: Ek, tmp_path: Path) -> None:
    document = json.loads(SHIPPED.read_text())
    document["cases"] = [{**document["cases"][0], "expect": "rebuild"}]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    said = ek("rules", "test", "--cases", file)
    assert said.code == ExitCode.FAIL
    assert "reuse by qualified, expected rebuild" in said.out


def test_cases_that_cannot_be_read_exit_3_and_that_are_not_there_4(ek: Ek, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    assert ek("rules", "test", "--cases", file).code == ExitCode.NOT_FOUND
    file.write_text('{"cases": [{}]}')
    assert ek("rules", "test", "--cases", file).code == ExitCode.INVALID_INPUT
