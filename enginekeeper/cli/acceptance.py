"""`acceptance`: whether a host can build and judge TensorRT engines."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._files import write_file
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command()
@click.option("--toolchain", "name", help="A release with engines; the newest stable if left out.")
@click.option(
    "--gpu", "gpus", multiple=True, default=("h100-sxm",), show_default=True,
    help="What to plan for where no GPU is here.",
)  # fmt: skip
@click.option(
    "--write-spec", type=click.Path(path_type=Path, dir_okay=False), help="Write its build spec."
)
@json_option
def acceptance(
    name: str | None, gpus: tuple[str, ...], write_spec: Path | None, as_json: bool
) -> int:
    """Say what this host lacks to build and judge engines, and what would be built and judged.

    That is SmolLM2 with every recipe that the rules allow on the GPUs of this host. Nothing is
    built: this version has no runner for TensorRT engines. Exits 10 while anything is missing.
    """
    from enginekeeper.cli.toolchain import release_named
    from enginekeeper.fleet.nvml import open_nvml
    from enginekeeper.orchestration.accepting import accept
    from enginekeeper.settings import Settings
    from enginekeeper.specs.releases import newest_stable_with_engines

    release = newest_stable_with_engines() if name is None else release_named(name)
    found = accept(open_nvml(), Settings.from_environment(), release, gpus)
    output = Output(as_json)
    if write_spec is not None:
        write_file(write_spec, found.spec)
    if as_json:
        output.json(found.as_dict())
    else:
        mark = "SIMULATED GPUs: " if found.simulated else ""
        output.note(f"{mark}{found.release}: nothing is built; this is what would be")
        rows = [
            {
                "gpu": one.gpu,
                "recipe": one.recipe,
                "would": one.refused_by or "build, judge, report",
                "simulated": "SIMULATED" if found.simulated else None,
            }
            for one in found.trials
        ]
        columns = ("gpu", "recipe", "would")
        output.table(rows, (*columns, "simulated") if found.simulated else columns)
        for one in found.looked:
            output.note(f"{one.subject}: {one.found}")
            if one.remedy is not None:
                output.note(f"  next: {one.remedy}")
    missing = any(one.remedy is not None for one in found.looked)
    return ExitCode.UNAVAILABLE if missing else ExitCode.OK
