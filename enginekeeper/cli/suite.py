"""`suite`: the texts that engines are compared on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.validation.suite_store import SuiteStore


@click.group()
def suite() -> None:
    """List, show and add probe suites."""


@suite.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List every suite with its digest; the newest version of a name is what specs get."""
    rows = [
        {
            "suite": entry.full_name,
            "of": "enginekeeper" if entry.bundled else "this home",
            "digest": str(entry.digest),
        }
        for entry in _store().entries()
    ]
    Output(as_json).table(rows, ("suite", "of", "digest"))
    return ExitCode.OK


@suite.command("show")
@click.argument("name")
@json_option
def show_command(name: str, as_json: bool) -> int:
    """Show what kinds of text a suite has; refuses a file that is not the one recorded."""
    found = _store().open(name)
    prompts = Counter(prompt.stratum for prompt in found.prompts)
    rows = [
        {
            "kind": kind,
            "prompts": count,
            "characters": sum(len(p.text) for p in found.prompts if p.stratum == kind),
            "longest": max(len(p.text) for p in found.prompts if p.stratum == kind),
        }
        for kind, count in prompts.items()
    ]
    output = Output(as_json)
    output.table(rows, ("kind", "prompts", "characters", "longest"))
    output.note(f"{found.path}: {found.digest}")
    return ExitCode.OK


@suite.command("add")
@click.argument("file", type=NamedPath())
@click.option("--name", required=True, help="What specs call it; small letters, digits and -.")
@click.option("--dry-run", is_flag=True, help="Check the samples and say what would be added.")
@json_option
def add_command(file: Path, name: str, dry_run: bool, as_json: bool) -> int:
    """Add samples of one's own traffic: JSON lines with "text", and "id" and "stratum" if known.

    The same texts again change nothing; other texts under a name are its next version.
    """
    store = _store()
    planned = store.plan(file, name)
    if not dry_run:
        store.add(planned)
    row = {
        "suite": planned.entry.full_name,
        "digest": str(planned.entry.digest),
        "prompts": len(planned.suite.prompts),
        "added": not planned.there and not dry_run,
    }
    Output(as_json).table([row], ("suite", "digest", "prompts", "added"))
    return ExitCode.OK


def _store() -> SuiteStore:
    from enginekeeper.settings import Settings
    from enginekeeper.validation.suite_store import SuiteStore

    return SuiteStore.of(Settings.from_environment().home)
