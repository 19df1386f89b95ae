"""`agent`: what this node says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.fleet.inventory import Inventory


@click.group()
def agent() -> None:
    """Say what is on this node, without a registry and without a network."""


@agent.command()
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write the document there, whole or not at all; to stdout as JSON if left out.",
)  # fmt: skip
@click.option("--node", help="Name of the node, where it is not the host's: in a container.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE",
    help="What you call the node, such as pool=h100; may be given several times.",
)  # fmt: skip
@json_option
def once(file: Path | None, node: str | None, labels: tuple[str, ...], as_json: bool) -> int:
    """Take the inventory of this node once: GPUs, driver, machine, engines on disk.

    Engines are those that were fetched here; their bytes are hashed. What cannot be read is said
    in the document, and is no error: a GPU that fell off the bus, a driver that is silent, a
    value the GPU does not support. docs/fleet.md has the document's fields.
    """
    import json

    from enginekeeper.fleet.nvml import open_nvml
    from enginekeeper.fleet.survey import survey
    from enginekeeper.settings import Settings

    settings = Settings.from_environment()
    found = survey(settings.home, open_nvml, node=node, labels=dict(map(_label, labels)))
    output = Output(as_json)
    text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False)
    if file is None:
        output.document(found.as_dict(), text)
    else:
        _write(file, text)
        output.outcome({"node": found.node, "file": str(file)}, f"{_said(found)}: {file}")
    return ExitCode.OK


def _label(text: str) -> tuple[str, str]:
    from enginekeeper.errors import InputError

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError("not a label", actual=text[:200], expected="NAME=VALUE")
    return name, value


def _write(file: Path, text: str) -> None:
    import os

    from enginekeeper.errors import UnavailableError

    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UnavailableError(
            f"the inventory cannot be written: {error.strerror}", where=str(file)
        ) from error


def _said(found: Inventory) -> str:
    mark = "SIMULATED: " if found.simulated else ""
    driver = "no driver" if found.driver is None else f"driver {found.driver.version}"
    lost = f", {len(found.lost)} LOST" if found.lost else ""
    problem = f" ({found.problem})" if found.problem else ""
    counts = f"{len(found.devices)} GPUs{lost}, {driver}{problem}, {len(found.engines)} engines"
    return f"{mark}{found.node}: {counts}"
