"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds `--json` and its alias `-o json`; the command receives `as_json`."""

    def merge(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value == "json":
            context.params["as_json"] = True

    command = click.option(
        "-o",
        "output",
        type=click.Choice(["json", "table"]),
        expose_value=False,
        callback=merge,
        help="Output form; `-o json` is `--json`.",
    )(command)
    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, help="Print data as JSON."
    )(command)


spec_argument = click.argument("spec", type=click.Path(path_type=Path))

only_option = click.option(
    "--only", multiple=True, metavar="GLOB", help="Only variants whose identifier matches."
)

model_option = click.option(
    "--model",
    "model_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory of the source model (Hugging Face format).",
)
