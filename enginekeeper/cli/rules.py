"""`rules`: what cannot work and what must be judged again, and who says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.compatibility.cases import RuleCase

rule_argument = click.argument("rule", required=False, metavar="[RULE]")


@click.group()
def rules() -> None:
    """List, show and test the compatibility rules: each has a statement and a source.

    A rule is asked of a build (may this variant be built), of a place (may this engine run
    there) or of the verdicts on an engine. The gravest effect decides: refuse, rebuild,
    revalidate, reuse; notes decide nothing.
    """


@rules.command("list")
@click.option("--asked", type=click.Choice(["build", "place", "verdict"]), help="Only these.")
@json_option
def list_command(asked: str | None, as_json: bool) -> int:
    """List every rule; REACHED is no where only a case of `rules test` can make it fire today."""
    from enginekeeper.compatibility.listing import listed_rules

    rows = [one.as_dict() for one in listed_rules() if asked in (None, one.asked)]
    if not as_json:
        rows = [{**row, "reached": "yes" if row["reached"] else "no"} for row in rows]
    Output(as_json).table(rows, ("rule", "asked", "effect", "reached", "statement"))
    return ExitCode.OK


@rules.command()
@click.argument("rule")
@json_option
def show(rule: str, as_json: bool) -> int:
    """Show one RULE with its source, and the shipped cases in which it fires."""
    from enginekeeper.compatibility.cases import read_cases
    from enginekeeper.compatibility.listing import rules_named

    found = [one.as_dict() for one in rules_named(rule)]
    cases = [
        {"case": case.name, "decided": str(case.decision().action), "source": case.source}
        for case in read_cases()
        if rule in _fired(case)
    ]
    lines = [
        f"{one['rule']}\n  {one['statement']}\n  asked:  of a {one['asked']}\n"
        f"  effect: {one['effect']}\n  source: {one['source']}\n"
        f"  needs:  {', '.join(one['needs']) or 'nothing more'}"
        + ("" if one["reached"] else "\n  asked by cases alone: no wave and no gate fills that in")
        for one in found
    ]
    lines += [f"  case:   {one['case']}: {one['decided']} ({one['source']})" for one in cases]
    Output(as_json).document({"rules": found, "cases": cases}, "\n".join(lines))
    return ExitCode.OK


@rules.command()
@rule_argument
@click.option("--cases", "file", type=NamedPath(), help="A file of cases; the shipped if left out.")
@json_option
def test(rule: str | None, file: Path | None, as_json: bool) -> int:
    """Ask the rules every case (or those in which RULE fires), and compare the answers.

    Exits 0 if all are as expected, 5 if one is not. docs/fleet.md has the form of a case.
    """
    from enginekeeper.compatibility.cases import SHIPPED, read_cases
    from enginekeeper.compatibility.listing import rules_named

    if rule is not None:
        rules_named(rule)
    cases = read_cases(file or SHIPPED)
    rows = [_row(case) for case in cases if rule is None or rule in {*case.rules, *_fired(case)}]
    output = Output(as_json)
    output.table(rows, ("case", "expected", "decided", "fault", "source"))
    wrong = sum(row["fault"] is not None for row in rows)
    output.note(f"{len(rows) - wrong} of {len(rows)} cases as expected")
    return ExitCode.FAIL if wrong else ExitCode.OK


def _fired(case: RuleCase) -> set[str]:
    return {one.rule.identifier for one in case.decision().fired}


def _row(case: RuleCase) -> dict[str, Any]:
    decision = case.decision()
    return {
        "case": case.name,
        "expected": str(case.expected),
        "decided": str(decision.action),
        "rules": [one.rule.identifier for one in decision.fired],
        "fault": case.fault(),
        "source": case.source,
    }
