"""`agent`: what this node says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, Number, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from enginekeeper.fleet.interface import Nvml
    from enginekeeper.fleet.inventory import Inventory
    from enginekeeper.fleet.survey import Means


@click.group()
def agent() -> None:
    """Say what is on this node: once as a document, or to the fleet's server, again and again."""


node_option = click.option(
    "--node",
    help="Name of the node, if neither the host's nor in ENGINEKEEPER_NODE: in a container.",
)
label_option = click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE",
    help="What you call the node, such as pool=h100; may be given several times.",
)  # fmt: skip
gfd_option = click.option(
    "--gfd", type=NamedPath(), metavar="FILE",
    help="Take GPUs from the labels of GPU Feature Discovery there, and leave NVML alone.",
)  # fmt: skip
dcgm_option = click.option(
    "--dcgm", metavar="URL",
    help="With --gfd or --fleet-intelligence: take each GPU from dcgm-exporter, http://HOST:9400/metrics.",
)  # fmt: skip
fleet_intelligence_option = click.option(
    "--fleet-intelligence", type=NamedPath(), metavar="PATH",
    help="Take GPUs from what NVIDIA's Fleet Intelligence agent wrote there: the directory of its "
    "--path in offline mode, or one machine info of its CSV; leave NVML alone.",
)  # fmt: skip
root_option = click.option(
    "--root", type=NamedPath(), default="/", metavar="DIRECTORY",
    help="Where the node's file system is: in a container that looks for the host's software.",
)  # fmt: skip


@agent.command()
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write the document there, whole or not at all; to stdout as JSON if left out.",
)  # fmt: skip
@node_option
@label_option
@gfd_option
@fleet_intelligence_option
@dcgm_option
@root_option
@json_option
def once(
    file: Path | None, node: str | None, labels: tuple[str, ...], gfd: Path | None,
    fleet_intelligence: Path | None, dcgm: str | None, root: Path, as_json: bool,
) -> int:  # fmt: skip
    """Take the inventory of this node once: GPUs, driver, machine, engines on disk.

    Engines are those that were fetched here; their bytes are hashed. Servers that `run-check
    --endpoint` started are asked what they serve. What cannot be read is said
    in the document, and is no error: a GPU that fell off the bus, a driver that is silent, a
    value the GPU does not support. docs/fleet.md has the document's fields.
    """
    import json

    from enginekeeper.cli._labels import read_label
    from enginekeeper.fleet.node_files import write_whole
    from enginekeeper.fleet.survey import survey
    from enginekeeper.settings import Settings

    settings = Settings.from_environment()
    open_nvml, means = _means(gfd, fleet_intelligence, dcgm, root)
    named = dict(map(read_label, labels))
    found = survey(settings.home, open_nvml, node=node or settings.node, labels=named, means=means)
    output = Output(as_json)
    text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False)
    if file is None:
        output.document(found.as_dict(), text)
    else:
        write_whole(file, f"{text}\n", make=False)
        output.outcome({"node": found.node, "file": str(file)}, f"{_said(found)}: {file}")
    return ExitCode.OK


@agent.command()
@click.option("--server", required=True, metavar="URL", help="The fleet's server: `ek serve`.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), required=True, metavar="FILE",
    help="What `node enroll` printed; only its owner may read it. Read at each round.",
)  # fmt: skip
@click.option(
    "--period", type=Number(1, 3600), default=60.0, show_default=True, metavar="SECONDS",
    help="Between two rounds, until the server says otherwise.",
)  # fmt: skip
@node_option
@label_option
@gfd_option
@fleet_intelligence_option
@dcgm_option
@root_option
@click.option(
    "--ca", "authorities", type=NamedPath(), metavar="FILE",
    help="Certificate authorities to trust, if not the system's.",
)  # fmt: skip
@click.option("--plain-http", is_flag=True, help="Send the token in the clear to another host.")
@click.option(
    "--rehash", type=click.IntRange(0, 4096), default=16, show_default=True, metavar="MIB",
    help="Of engines that seem unchanged, read so much again in each round.",
)  # fmt: skip
@click.option(
    "--xids", is_flag=True,
    help="Listen for the driver's errors between rounds; stop the agent to unload the driver.",
)  # fmt: skip
def run(
    server: str, token_file: Path, period: float, node: str | None, labels: tuple[str, ...],
    gfd: Path | None, fleet_intelligence: Path | None, dcgm: str | None, root: Path,
    authorities: Path | None, plain_http: bool, rehash: int, xids: bool,
) -> int:  # fmt: skip
    """Tell the fleet's server that this node lives, and what is on it; until SIGTERM.

    In each round the node is looked at, a heartbeat of a few hundred bytes is sent, and the whole
    inventory where the server does not know it. Without a server it goes on, waits longer each
    time, and sends what is newest when it is back. It starts and stops nothing, and needs no
    registry. NVML is asked in a process of its own, so that a driver can be replaced under it; with
    --xids one stays that listens, and keeps the driver in use.
    """
    import logging
    import os
    from dataclasses import replace

    from enginekeeper.cli._labels import read_label
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.errors import UnavailableError
    from enginekeeper.fleet.agent.apart import NvmlApart
    from enginekeeper.fleet.agent.client import FleetClient, read_token
    from enginekeeper.fleet.agent.hashes import KeptHashes
    from enginekeeper.fleet.agent.loop import Agent
    from enginekeeper.fleet.agent.memory import AgentMemory
    from enginekeeper.fleet.agent.xids import XidWatch
    from enginekeeper.fleet.nvml import listen_for_xids
    from enginekeeper.fleet.survey import survey
    from enginekeeper.settings import Settings

    if xids and (gfd or fleet_intelligence):
        raise click.UsageError("--xids is NVML's; --gfd and --fleet-intelligence leave it alone.")
    settings, named = Settings.from_environment(), dict(map(read_label, labels))
    name = node or settings.node
    client = FleetClient(server, token_file, authorities, plain_http)
    read_token(token_file)  # what is wrong with it now is said now
    memory = AgentMemory(settings.home)
    open_nvml, means = _means(gfd, fleet_intelligence, dcgm, root)
    show_progress()
    with memory.alone():
        hashes, nvml = KeptHashes(memory.directory / "hashes.json"), NvmlApart(open_nvml)
        watch = XidWatch(listen_for_xids) if xids else None
        by = replace(means, hashed=hashes, xids=watch)

        def look() -> Inventory:
            found = survey(settings.home, nvml, node=name, labels=named, means=by)
            try:
                hashes.end_round(rehash * 1024 * 1024)
            except UnavailableError as error:  # a full disk: they are hashed again, that is all
                logging.getLogger("enginekeeper.progress").warning("%s", error)
            return found

        try:
            Agent(look, client, memory, _until_told(), os.getpid(), period).run()
        finally:
            if watch is not None:
                watch.close()
    return ExitCode.OK


@agent.command()
@json_option
def status(as_json: bool) -> int:
    """Show how the last round of this node's agent went, and what should run here.

    Exits 0 if the server took a heartbeat within three periods, 10 if not, 4 if no agent ran.
    """
    from datetime import UTC, datetime

    from enginekeeper.fleet.agent.memory import AgentMemory
    from enginekeeper.settings import Settings

    memory = AgentMemory(Settings.from_environment().home)
    found, desired = memory.status(), memory.desired()
    age = _age(found.get("accepted_at"), datetime.now(UTC))
    fresh = age is not None and age <= _PERIODS * float(found.get("period_seconds") or 0)
    wanted = () if desired is None else desired.assignments
    rows = [{**vars(one), "containers": list(one.containers)} for one in wanted]
    document = {**found, "accepted_seconds_ago": age, "fresh": fresh, "desired": rows}
    output = Output(as_json)
    lines = [f"{name + ':':<22}{'-' if one is None else one}" for name, one in document.items()
             if name != "desired"]  # fmt: skip
    for one in rows:
        what = one["engine"] or f"none: {one['reason']}"
        images = "".join(f", in {image}" for image in one["containers"])
        lines.append(f"{'desired:':<22}{one['model']} {one['channel']}: {what}{images}")
    output.document(document, "\n".join(lines))
    return ExitCode.OK if fresh else ExitCode.UNAVAILABLE


def _means(
    gfd: Path | None, fleet_intelligence: Path | None, dcgm: str | None, root: Path
) -> tuple[Callable[[], Nvml], Means]:
    """Returns whom to ask about GPUs, and what else a survey looks with."""
    import time
    from functools import partial

    from enginekeeper.fleet.discovery import ingesting
    from enginekeeper.fleet.endpoints import ask_endpoint
    from enginekeeper.fleet.fleet_intelligence import machine_info_from
    from enginekeeper.fleet.http_get import check_url, get_text
    from enginekeeper.fleet.nvml import open_nvml
    from enginekeeper.fleet.survey import Means

    ask = partial(ask_endpoint, get=get_text)
    if gfd is not None and fleet_intelligence is not None:
        raise click.UsageError("--gfd and --fleet-intelligence: one of the two can be believed.")
    metrics = None if dcgm is None else check_url(dcgm, "--dcgm")
    roots = (root, Path("/"))
    if gfd is not None:
        opened, source = ingesting(gfd, metrics, get_text, roots), "gfd"
    elif fleet_intelligence is not None:
        opened = machine_info_from(fleet_intelligence, metrics, get_text, time.time, roots)
        source = "fleet-intelligence"
    elif metrics is not None:
        raise click.UsageError(
            "--dcgm needs --gfd or --fleet-intelligence: it tells no CUDA version."
        )
    else:
        return open_nvml, Means(ask=ask, root=root)
    source += "" if metrics is None else "+dcgm"
    return opened, Means(ask=ask, root=root, gpu_source=source)


_PERIODS = 3


def _age(moment: str | None, now: datetime) -> int | None:
    from datetime import datetime

    return None if moment is None else int((now - datetime.fromisoformat(moment)).total_seconds())


def _until_told() -> Callable[[float], bool]:
    """Returns a function that waits so many seconds, and says whether a signal ended that."""
    import signal
    from threading import Event

    told = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told.wait


def _said(found: Inventory) -> str:
    mark = "SIMULATED: " if found.simulated else ""
    driver = "no driver" if found.driver is None else f"driver {found.driver.version}"
    lost = f", {len(found.lost)} LOST" if found.lost else ""
    problem = f" ({found.problem})" if found.problem else ""
    counts = f"{len(found.devices)} GPUs{lost}, {driver}{problem}, {len(found.engines)} engines"
    return f"{mark}{found.node}: {counts}"
