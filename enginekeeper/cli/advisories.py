"""`advisories`: known vulnerabilities of the releases that engines were built by."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also those that no engine is built by.")
@click.option("--model", help="Only engines of this model.")
@json_option
def advisories(everything: bool, model: str | None, as_json: bool) -> int:
    """List engines that were built by releases with known vulnerabilities, by vulnerability.

    Most are about servers, not about what an engine holds; but an engine is loaded by the release
    that built it. The table ships with Enginekeeper and says when it was read.
    """
    from enginekeeper.compatibility.advisories import advisory_table
    from enginekeeper.orchestration.advising import advised
    from enginekeeper.orchestration.bench import open_bench
    from registry.types import EngineFilter

    found = advised(open_bench().registry, EngineFilter(model=model))
    rows = [one.as_dict() for one in found if everything or one.engines]
    output = Output(as_json)
    if as_json:
        output.json(rows)
        return ExitCode.OK
    for row in rows:
        simulated = sum(engine["simulated"] for engine in row["engines"])
        unknown = sum(engine["standing"] == "unknown" for engine in row["engines"])
        row["engines"] = f"{len(row['engines'])}" + (
            f" ({simulated} SIMULATED)" if simulated else ""
        )
        row["unknown"] = unknown or None
    output.table(rows, ("advisory", "product", "fixed_in", "score", "engines", "unknown", "what"))
    output.note(f"known here as of {advisory_table().read_on}; --json names engines and sources")
    return ExitCode.OK
