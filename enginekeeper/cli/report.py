"""`report`: a verdict as one file for people."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._files import write_file
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._verdicts import verified_document


@click.command()
@click.argument("subject")
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="File to write; it needs nothing beside it.",
)  # fmt: skip
@json_option
def report(subject: str, page: Path, as_json: bool) -> int:
    """Write the report of a verdict: of an engine's latest one, verified, or of a file.

    SUBJECT is an engine, or a file that `ek validate --json` or `ek engine explain --json` made.
    """
    from enginekeeper.reports.page import Subject, render_page

    path = Path(subject)
    if path.is_file():
        from enginekeeper.documents import read_json_object

        text = render_page(read_json_object(path), Subject(path.name, verified=False))
    else:
        from enginekeeper.orchestration.bench import open_bench

        found, document = verified_document(open_bench(), subject)
        text = render_page(document, Subject(str(found.digest), verified=True))
    write_file(page, text)
    Output(as_json).table([{"report": str(page)}], ("report",))
    return ExitCode.OK
