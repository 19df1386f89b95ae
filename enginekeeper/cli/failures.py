"""`failures`: builds that the catalogue remembers as failed."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command()
@json_option
def failures(as_json: bool) -> int:
    """List builds that failed for a cause which lies in what was asked for, until they expire.

    Their variants are refused by the plan (failed-before). `ek build --retry-failed` tries them
    again all the same; another recipe, option or toolchain is another build.
    """
    from datetime import UTC, datetime

    from enginekeeper.orchestration.bench import open_bench

    with open_bench().registry.catalogue.read() as view:
        rows = [one.as_dict() for one in view.failures.standing(datetime.now(UTC))]
    output = Output(as_json)
    if as_json:
        output.json(rows)
        return ExitCode.OK
    for row in rows:
        row["simulated"] = "SIMULATED" if row["simulated"] else None
        row["expires"] = row["expires_at"][:10]
    columns = ("variant", "toolchain", "group", "cause", "expires", "actor")
    marked = any(row["simulated"] for row in rows)
    output.table(rows, (*columns, "simulated") if marked else columns)
    return ExitCode.OK
