"""Asking before something is taken away, and the options that go with it."""

from __future__ import annotations

import sys

import click

from enginekeeper.cli._options import Command


def destroys(command: Command) -> Command:
    """Adds `--dry-run` and `--yes`."""
    command = click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", is_flag=True, help="Only show what it would do.")(command)


def require_yes(question: str, *, yes: bool) -> None:
    """Asks on the terminal unless `--yes` was said; ends the command on any other answer.

    Where there is nobody to ask nothing is done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nothing was changed: say --yes, or --dry-run to look.")
    click.confirm(question, abort=True, err=True)
