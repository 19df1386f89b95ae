"""`validate`: the whole judgement of a checkpoint that somebody else made."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import exit_code_of_result
from enginekeeper.cli._options import (
    NamedPath,
    json_option,
    locate_option,
    model_option,
    probes_option,
    tokenizer_of,
    tokenizer_option,
    whole_suite_option,
)
from enginekeeper.cli._output import Output
from enginekeeper.cli._progress import show_progress


@click.command()
@click.option(
    "--checkpoint", "directory", type=NamedPath(), required=True,
    help="Directory of the TensorRT-LLM checkpoint.",
)  # fmt: skip
@model_option
@click.option(
    "--suite", metavar="NAME", default="smoke", show_default=True,
    help="Texts to compare on: smoke, standard, deep, or one's own; see `ek suite list`.",
)  # fmt: skip
@click.option("--no-audit", is_flag=True, help="Judge by behaviour alone; can then never pass.")
@whole_suite_option
@probes_option
@tokenizer_option
@locate_option
@json_option
def validate(
    directory: Path,
    model_dir: Path,
    suite: str,
    no_audit: bool,
    whole_suite: bool,
    probes: bool,
    tokenizer: Path | None,
    locate: bool,
    as_json: bool,
) -> int:
    """Build a checkpoint on this CPU and judge it against its source model; publishes nothing.

    Exits 0 pass, 5 fail, 6 inconclusive.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.validating import ValidationRequest, validate_checkpoint
    from enginekeeper.validation.report import render

    show_progress()
    request = ValidationRequest(
        directory,
        model_dir,
        suite=suite,
        audits=not no_audit,
        whole_suite=whole_suite,
        probes=probes,
        tokenizer=tokenizer_of(tokenizer, probes=probes),
        locate=locate,
    )
    document = validate_checkpoint(open_bench(), request)
    Output(as_json).document(document, render(document))
    return exit_code_of_result(document["result"])
