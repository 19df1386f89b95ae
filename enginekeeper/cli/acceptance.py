"""`acceptance`: whether a host can build and judge TensorRT engines, and what came of doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._files import write_file
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.orchestration.acceptance_run import Accepted
    from enginekeeper.orchestration.accepting import HostAcceptance
    from enginekeeper.specs.profiles import ToolchainProfile

_PLANNED_FOR = ("h100-sxm",)


@click.command()
@click.option(
    "--toolchain",
    "name",
    help="A release with engines, or the one that doubles it; the newest stable if left out.",
)
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    default=_PLANNED_FOR,
    show_default=True,
    help="What to plan for where no GPU is here.",
)
@click.option("--only", multiple=True, metavar="SELECTOR", help="Recipes to try; all if left out.")
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the signed report goes; a folder of this home if left out.",
)
@click.option("--dry-run", is_flag=True, help="Look, and build nothing.")
@click.option(
    "--write-spec", type=click.Path(path_type=Path, dir_okay=False), help="Write its build spec."
)
@click.option(
    "--verify",
    "report",
    type=click.Path(path_type=Path, file_okay=False),
    help="Check the signature of a report that is in this folder, and show it; builds nothing.",
)
@json_option
def acceptance(
    name: str | None, gpus: tuple[str, ...], only: tuple[str, ...], folder: Path | None,
    dry_run: bool, write_spec: Path | None, report: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Build and judge SmolLM2 with every recipe that this host's GPUs support; sign a report.

    Says first what is missing for it. While anything is, nothing is built, and it exits 10. With a
    simulated toolchain doubles build, for the GPUs named, and everything is marked.
    """
    from enginekeeper.fleet.nvml import open_nvml
    from enginekeeper.orchestration.accepting import accept
    from enginekeeper.settings import Settings

    if report is not None:
        if any((name, only, folder, dry_run, write_spec, gpus != _PLANNED_FOR)):
            raise click.UsageError("--verify goes alone: nothing is looked at or built with it")
        return _show_report(Output(as_json), report)
    found = accept(open_nvml(), Settings.from_environment(), _profile(name), gpus, only)
    output = Output(as_json)
    if write_spec is not None:
        write_file(write_spec, found.spec)
    if dry_run or found.lacking:
        _show_plan(output, found)
        return ExitCode.UNAVAILABLE if found.lacking else ExitCode.OK
    return _show(output, _run(found, folder, only))


def _show_report(output: Output, folder: Path) -> int:
    """Shows a report whose signature counts here."""
    from enginekeeper.orchestration.acceptance_run import verified_report
    from enginekeeper.orchestration.bench import open_bench

    document = verified_report(folder, open_bench().trust)
    mark = "SIMULATED: " if document["simulated"] else ""
    text = f"{mark}signed and whole: {document['finished']}\n{document['row']}"
    output.document(document, text)
    return ExitCode.OK


def _profile(name: str | None) -> ToolchainProfile:
    from enginekeeper.errors import MissingError
    from enginekeeper.specs.form import did_you_mean
    from enginekeeper.specs.profiles import toolchain_profiles
    from enginekeeper.specs.releases import newest_stable_with_engines

    asked = newest_stable_with_engines().name if name is None else name
    profiles = toolchain_profiles()
    if asked not in profiles:
        raise MissingError(
            f"there is no release of TensorRT-LLM called {asked}",
            expected=", ".join(one for one in profiles if "tensorrt" in one),
            remedy=did_you_mean(asked, profiles),
        )
    return profiles[asked]


def _run(found: HostAcceptance, folder: Path | None, only: tuple[str, ...]) -> Accepted:
    from datetime import UTC, datetime

    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.acceptance_run import run_acceptance
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.start import run_build

    show_progress(verbose=False)
    bench, started = open_bench(), datetime.now(UTC)
    place = folder or bench.settings.home / "acceptance" / f"{started:%Y%m%dT%H%M%S}"
    return run_acceptance(
        bench, found, place, build=run_build, clock=lambda: datetime.now(UTC), only=only
    )


def _show(output: Output, accepted: Accepted) -> int:
    """Prints the report; what the rules refuse is as it should be, and fails nothing."""
    from enginekeeper.cli._errors import gravest
    from enginekeeper.cli.build import exit_code_of_outcome, show_outcomes

    tried = [one for one in accepted.outcomes if one.ending != "refused"]
    codes = [exit_code_of_outcome(one) for one in tried]
    if output.as_json:
        output.json({**accepted.document, "folder": str(accepted.folder)})
    else:
        show_outcomes(output, accepted.outcomes)
        output.note(accepted.row)
        output.note(f"signed report: {accepted.folder}")
    return gravest(codes) if codes else ExitCode.REFUSED


def _show_plan(output: Output, found: HostAcceptance) -> None:
    if output.as_json:
        output.json(found.as_dict())
        return
    mark = "SIMULATED: " if found.simulated else ""
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
