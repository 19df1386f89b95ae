"""Options that name a change of driver, and the nodes that it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._options import Command, NamedPath

if TYPE_CHECKING:
    from enginekeeper.fleet.traffic import Traffic
    from enginekeeper.orchestration.waves import DriverChange


def change_options(*, required: bool) -> Callable[[Command], Command]:
    """Adds `--driver`, `--cuda` and `--cuda-driver`."""

    def add(command: Command) -> Command:
        command = click.option(
            "--cuda-driver", help="CUDA API of the driver, where its branch is not known here."
        )(command)
        command = click.option(
            "--cuda", help="CUDA of the containers afterwards; as now if left out."
        )(command)
        return click.option(
            "--driver", required=required, help="The new driver, all of it, such as 595.71.05."
        )(command)

    return add


def fleet_options(command: Command) -> Command:
    """Adds `--inventory` and `--nodes`."""
    command = click.option(
        "--nodes", "selectors", multiple=True, metavar="SELECTOR",
        help="Only nodes of this name, or LABEL=VALUE; both take globs and braces.",
    )(command)  # fmt: skip
    return click.option(
        "--inventory", "places", type=NamedPath(), multiple=True, metavar="PLACE",
        help="File, lines or directory that `agent once` wrote, in place of the enrolled nodes.",
    )(command)  # fmt: skip


def traffic_options(command: Command) -> Command:
    """Adds `--traffic` and `--traffic-query`."""
    command = click.option(
        "--traffic-query", metavar="PROMQL",
        help="What to ask for in place of the GPUs' use in the last hour: a value for each node.",
    )(command)  # fmt: skip
    return click.option(
        "--traffic", metavar="URL|FILE",
        help="Prometheus, or a JSON file {NODE: NUMBER}: the least busy nodes come first.",
    )(command)  # fmt: skip


def traffic_of(source: str | None, query: str | None) -> Traffic | None:
    """Returns what is known of the nodes' traffic; None where nobody named who knows."""
    from enginekeeper.fleet.http_get import get_text
    from enginekeeper.fleet.traffic import read_traffic

    if source is None:
        if query is not None:
            raise click.UsageError("--traffic-query is asked of Prometheus: name it with --traffic")
        return None
    return read_traffic(source, query, get_text)


def change_to(driver: str, cuda: str | None, cuda_driver: str | None) -> DriverChange:
    """Returns the change that the options name, as of today."""
    from datetime import UTC, datetime

    from enginekeeper.orchestration.waves import DriverChange

    today = datetime.now(UTC).date()
    return DriverChange.announced(driver, cuda=cuda, cuda_driver=cuda_driver, on=today)
