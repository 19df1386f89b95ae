"""`rebuild`: what a change of driver, toolchain, weights or one engine asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._wave_options import change_options, change_to, fleet_options

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from enginekeeper.orchestration.rebuilding import RebuildItem
    from enginekeeper.orchestration.waves import WavePlan

_SPECS = Path("buildspecs")


@click.command()
@change_options(required=False)
@fleet_options
@click.option("--toolchain", "toolchains", multiple=True, help="What was built in this one.")
@click.option("--weights", multiple=True, metavar="MODEL", help="Engines of this model.")
@click.option("--engine", "engines", multiple=True, help="This engine; an id or a start of one.")
@click.option(
    "--spec", "specs", type=NamedPath(), multiple=True,
    help="Build spec, or a directory of them; ./buildspecs if left out.",
)  # fmt: skip
@click.option("--channel", help="Put every engine that passes into this channel.")
@click.option("--deployment", help="Let a Prefect server's deployment of the flow do it.")
@click.option("--dry-run", is_flag=True, help="Only show what it would do.")
@click.option("--verbose", is_flag=True, help="Show the steps' own output.")
@json_option
def rebuild(
    driver: str | None,
    cuda: str | None,
    cuda_driver: str | None,
    places: tuple[Path, ...],
    selectors: tuple[str, ...],
    toolchains: tuple[str, ...],
    weights: tuple[str, ...],
    engines: tuple[str, ...],
    specs: tuple[Path, ...],
    channel: str | None,
    deployment: str | None,
    dry_run: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Judge again and build what a change asks for; what is proven already is reused.

    An engine is judged as it is where that is enough; a variant is built once. What needs a GPU
    that is not here ends as `elsewhere`, with the command that does it there, and exits 7. Other
    exit codes are those of `build`. An interrupted run goes on where it was when it is run again.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.cli.build import show_outcomes
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rebuilding import RebuildRequest, carry_out, plan_rebuild

    if not (driver or toolchains or weights or engines):
        raise click.UsageError("Name a change: --driver, --toolchain, --weights or --engine.")
    bench = open_bench()
    found = specs or ((_SPECS,) if _SPECS.is_dir() else ())
    wave = None if driver is None else _wave(bench, driver, (cuda, cuda_driver), places, selectors)
    request = RebuildRequest(found, engines, toolchains, weights, wave, channel)
    planned = plan_rebuild(bench, request)
    output = Output(as_json)
    if dry_run:
        return _show(output, planned.items)
    show_progress(verbose=verbose)
    return show_outcomes(output, carry_out(planned, deployment=deployment))


def _wave(
    bench: Bench,
    driver: str,
    cuda: tuple[str | None, str | None],
    places: tuple[Path, ...],
    selectors: tuple[str, ...],
) -> WavePlan:
    from enginekeeper.orchestration.fleet_reading import plan_of

    return plan_of(bench.registry, places, selectors, change_to(driver, *cuda))


def _show(output: Output, items: tuple[RebuildItem, ...]) -> int:
    rows = [one.as_dict() for one in items]
    if output.as_json:
        output.json(rows)
    else:
        shown = [{**row, "engine": str(row["engine"] or "").partition(":")[2][:12]} for row in rows]
        output.table(shown, ("variant", "target", "action", "rule", "engine", "why"))
        for row in rows:
            if row["action"] not in ("build", "reuse"):
                output.note(f"{row['variant']}: {row['reason']}")
            if row["there"] is not None:
                output.note(f"  there: {row['there']}")
    actions = {row["action"] for row in rows}
    if "refuse" in actions:
        return ExitCode.REFUSED
    return ExitCode.DRIFT if "elsewhere" in actions else ExitCode.OK
