"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class NamedPath(click.Path):
    """A file or directory that was named on the command line; raises MissingError without one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Returns the path if there is something."""
        from enginekeeper.errors import MissingError

        path = Path(value)
        super().convert(value, param, ctx)
        try:
            there = path.exists()
        except (OSError, ValueError):  # no file can have such a name
            there = False
        if not there:
            raise MissingError("no such file or directory", where=str(path)[:500])
        return path


class Number(click.FloatRange):
    """A number in a range; FloatRange itself lets NaN pass."""

    what = "number"

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"nan is no {self.what}", param, ctx)
        return number


class Hours(Number):
    """A length of time in hours, of a year at the most."""

    what = "number of hours"

    def __init__(self, least: float) -> None:
        super().__init__(min=least, max=365 * 24)


class Moment(click.ParamType[datetime]):
    """A time that was written on the command line, with its zone; a bare date is its midnight."""

    name = "time"

    def convert(
        self,
        value: str | datetime,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        """Returns the time; the zone is UTC where none is given with a date alone."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write 2026-11-26T12:00:00Z", param, ctx)
        if moment.tzinfo is None and len(value) > len("2026-11-26"):
            self.fail(f"{value!r} has no zone; write {value}Z for UTC", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


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

skip_option = click.option(
    "--skip", multiple=True, metavar="GLOB", help="Not the variants whose identifier matches."
)

whole_suite_option = click.option(
    "--whole-suite", is_flag=True,
    help="Score every prompt, although fewer may decide; `validate` does it for what was judged.",
)  # fmt: skip

probes_option = click.option(
    "--probes", is_flag=True, help="Also ask the engine in other batches, in chunks, in decode."
)

tokenizer_option = click.option(
    "--tokenizer", type=NamedPath(), metavar="DIRECTORY",
    help="With --probes: what will serve engines that have no tokenizer of their own.",
)  # fmt: skip


def tokenizer_of(directory: Path | None, *, probes: bool) -> Path | None:
    """Returns the directory; a usage error where nothing would look at it.

    Raises InputError where it has no tokenizer: what would say so later comes hours later.
    """
    if directory is None:
        return None
    if not probes:
        raise click.UsageError("--tokenizer is looked at by --probes: ask for those, too")
    from enginekeeper.sources.tokenizer_files import require_tokenizer

    require_tokenizer(directory)
    return directory


locate_option = click.option(
    "--locate",
    is_flag=True,
    help="See and name small errors of one tensor's gain: a pass each, minutes to hours.",
)

model_option = click.option(
    "--model",
    "model_dir",
    type=NamedPath(),
    required=True,
    help="Directory of the source model (Hugging Face format).",
)
