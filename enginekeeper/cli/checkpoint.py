"""`checkpoint`: audits and repairs of TensorRT-LLM checkpoints; needs no toolchain and no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from enginekeeper.cli._errors import ExitCode, exit_code_of_result
from enginekeeper.cli._options import NamedPath, json_option, model_option
from enginekeeper.cli._output import Output

_LISTED = 3
"""Names spelled out before "and n more"."""

checkpoint_argument = click.argument("directory", type=NamedPath())


@click.group()
def checkpoint() -> None:
    """Audit and repair TensorRT-LLM checkpoints."""


@checkpoint.command("audit")
@checkpoint_argument
@model_option
@click.option(
    "--recipe",
    help="What was asked for, as a build spec says it: w4a16, or "
    "'{recipe: w4a16, group_size: 64, kv_cache: fp8}'.",
)
@json_option
def audit_command(directory: Path, model_dir: Path, recipe: str | None, as_json: bool) -> int:
    """Compare the checkpoint in DIRECTORY with its source model, config and weights.

    With --recipe, its quantization block is held against what was asked for as well.

    Exits 5 if anything is wrong, 6 if something could not be decided.
    """
    from enginekeeper.specs.loader import parse_recipe
    from enginekeeper.validation import recipe_audit
    from enginekeeper.validation.audits import audit
    from enginekeeper.validation.findings import not_run, worst

    asked = None if recipe is None else parse_recipe(recipe, "--recipe")
    reports = audit(model_dir, directory, asked)
    result = worst(report.result for report in reports)
    audits = [report.as_dict() for report in reports]
    if asked is None:
        audits.append(not_run(recipe_audit.NAME))
    document = {"result": result, "audits": audits}
    Output(as_json).document(document, render_audits(document))
    return exit_code_of_result(result)


@checkpoint.command("repair")
@checkpoint_argument
@model_option
@click.option(
    "--output",
    "output_dir",
    type=click.Path(path_type=Path),
    help="Directory of the repaired copy; must not exist. Not needed with --dry-run.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be repaired.")
@json_option
def repair_command(
    directory: Path, model_dir: Path, output_dir: Path | None, dry_run: bool, as_json: bool
) -> int:
    """Write a repaired copy of the checkpoint in DIRECTORY, with a record of every change."""
    from dataclasses import asdict

    from enginekeeper.documents import read_json_object
    from enginekeeper.validation.repair import apply_repairs, propose_repairs

    if output_dir is None and not dry_run:
        raise click.UsageError("Missing option '--output' (or '--dry-run').")
    repairs = propose_repairs(read_json_object(model_dir / "config.json"), directory)
    output = Output(as_json)
    output.table([asdict(one) for one in repairs], ("rule", "field", "was", "now", "reason"))
    if repairs and output_dir is not None and not dry_run:
        apply_repairs(directory, output_dir, repairs)
        output.note(f"written to {output_dir}")
    if not repairs:
        output.note("nothing to repair")
    return ExitCode.OK


def render_audits(document: dict[str, Any]) -> str:
    """Lays audit reports out for a person: the verdict and its first place, then all findings."""
    findings = (one for report in document["audits"] for one in report["findings"])
    places = [one["where"] for one in findings if one["result"] == document["result"]]
    lines = [document["result"].upper() + (f": {_listed(places, 1)}" if places else "")]
    for report in document["audits"]:
        examined = ", ".join(_looked_at(report["examined"]))
        lines.append(
            f"{report['check']}: {report['result']}" + (f" ({examined})" if examined else "")
        )
        for finding in report["findings"]:
            kind = f" [{finding['class']}]" if finding["class"] else ""
            lines.append(f"  {finding['result']}{kind} {finding['where']}: {finding['message']}")
            if finding["expected"] is not None:
                lines.append(f"      found:    {finding['actual']}")
                lines.append(f"      expected: {finding['expected']}")
    return "\n".join(lines)


def _looked_at(examined: dict[str, Any]) -> Iterator[str]:
    """Yields counts and names that fit a line; what there is of each tensor, --json prints."""
    for name, value in examined.items():
        label = name.replace("_", " ")
        if isinstance(value, list) and value:
            yield f"{label} {_listed(value, _LISTED)}"
        elif isinstance(value, int | float):
            yield f"{label} {value:.6g}"


def _listed(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(names[:most]) + more
