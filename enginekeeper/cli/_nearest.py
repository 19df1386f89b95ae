"""For variants that no engine exists of: the engines that come nearest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option, only_option, skip_option, spec_argument
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.nearest import Neighbour


@click.command()
@spec_argument
@only_option
@skip_option
@click.option("--limit", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many engines to show for each variant.")  # fmt: skip
@json_option
def nearest(
    spec: Path, only: tuple[str, ...], skip: tuple[str, ...], limit: int, as_json: bool
) -> int:
    """Show for each variant of SPEC without an engine which come nearest, and what differs.

    Exits 4 if there is no engine at all to compare with, or no variant's key can be told.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.planning import plan_spec

    bench = open_bench()
    planned = plan_spec(bench, spec, only, skip)
    missing = [one for one in planned if one.known is None and one.key is not None]
    found = [(one, bench.registry.nearest(one.key, limit=limit)) for one in missing if one.key]
    output = Output(as_json)
    if as_json:
        output.json([
            {"variant": str(one.variant.identifier), "nearest": [each.as_dict() for each in near]}
            for one, near in found
        ])  # fmt: skip
    else:
        rows = [row for one, near in found for row in _rows(str(one.variant.identifier), near)]
        output.table(rows, ("variant", "nearest", "layer", "field", "wanted", "there"))
    for one in planned:
        if one.known is not None:
            output.note(f"{one.variant.identifier}: engine {one.known.engine.digest.short} exists")
        elif one.key is None:
            output.note(f"{one.variant.identifier}: {one.reason}")
    nothing = not any(near for _, near in found) and any(one.known is None for one in planned)
    return ExitCode.NOT_FOUND if nothing else ExitCode.OK


def _rows(variant: str, neighbours: list[Neighbour]) -> Iterator[dict[str, Any]]:
    for neighbour in neighbours:
        for one in neighbour.differences:
            yield {
                "variant": variant,
                "nearest": neighbour.engine.digest.short,
                "layer": str(one.layer),
                "field": one.field,
                "wanted": one.a,
                "there": one.b,
            }
