"""`wave check`, `hooks` and `react`: what waves say to nodes, and what nodes say to waves."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._wave_options import fleet_options

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.waves.types import Wave, WaveNode


@click.command()
@click.argument("node")
@click.option("--driver", help="The driver it would get; whatever a wave releases if left out.")
@json_option
def check(node: str, driver: str | None, as_json: bool) -> int:
    """Say whether NODE may get a driver now: for the script that upgrades it.

    Exits 0 if a wave that goes on releases it, or it has the driver already; 7 if it is held, or in
    no wave; 8 if an engine on it is refused under that driver. Asked of the node and its engines as
    they are now, not as the wave saw them last. A script upgrades on 0 and on nothing else, and
    names the driver: without --driver only a planned wave that goes on is asked.
    """
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    with registry.catalogue.read() as view:
        found = view.waves.of_node(node)
    code, document = _answer(registry, node, driver, found)
    said = f"{node}: {document['stage'] or 'in no wave'}"
    reasons = "; ".join(document["reasons"])
    text = f"{said}, driver {document['driver']}" + (f": {reasons}" if reasons else "")
    Output(as_json).document(document, text)
    return code


def _answer(
    registry: Registry, node: str, driver: str | None, found: list[tuple[Wave, WaveNode]]
) -> tuple[ExitCode, dict[str, Any]]:
    """Returns what the wave that is about a driver says of a node: one that goes on, or the last.

    A wave that has ended releases nothing; it knows who has its driver, and is well with it. So
    does one that was found; neither is asked where no driver is named: any might be installed.
    """
    for wave, recorded in sorted(found, key=lambda each: each[0].ended):
        target = recorded.previous_driver if recorded.stage == "reverting" else wave.driver
        if driver is None and (wave.ended or wave.origin == "found"):
            continue
        if driver is not None and driver != target:
            continue
        one, may_change = _now(registry, wave, recorded)
        document = {
            "node": node, "wave": wave.name, "phase": str(wave.phase), "driver": target,
            "stage": str(one.stage), "reasons": list(one.reasons),
        }  # fmt: skip
        if may_change:
            return ExitCode.OK, document
        refused = any(reason.startswith("refuse ") for reason in one.reasons)
        return (ExitCode.REFUSED if refused else ExitCode.DRIFT), document
    nobody = {
        "node": node, "wave": None, "phase": None, "driver": driver, "stage": None,
        "reasons": ["no wave releases it: enginekeeper wave start"],
    }  # fmt: skip
    return ExitCode.DRIFT, nobody


def _now(registry: Registry, wave: Wave, recorded: WaveNode) -> tuple[WaveNode, bool]:
    """Returns where a node of a wave is now, and whether its driver may be changed."""
    from datetime import UTC, datetime

    from enginekeeper.orchestration.rollout.service import standing

    if wave.ended and recorded.stage not in ("upgraded", "done"):
        return recorded, False
    now = standing(registry, wave, recorded, now=datetime.now(UTC))
    if now is None:
        return replace(recorded, reasons=("is not seen any more",)), False
    return now, now.stage == "done" if wave.ended else wave.frees(now)


@click.command()
@click.argument("wave")
@click.option("--apply", "now", is_flag=True, help="Run them, instead of printing them.")
@json_option
def hooks(wave: str, now: bool, as_json: bool) -> int:
    """Print the kubectl commands that hold and release the nodes of WAVE for the GPU Operator.

    They set or remove the label nvidia.com/gpu-driver-upgrade.skip; run again they change
    nothing. Drivers that the operator does not manage are held by `wave check` in your script.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout.kubernetes import apply, label_commands
    from enginekeeper.orchestration.rollout.service import read_wave

    commands = label_commands(read_wave(open_bench().registry, wave))
    output = Output(as_json)
    if now:
        apply(commands)
    output.document(commands, "\n".join(map(shlex.join, commands)))
    if now:
        output.note(f"{len(commands)} commands were run")
    return ExitCode.OK


@click.command()
@fleet_options
@click.option("--cuda-driver", help="CUDA API of a driver whose branch is not known here.")
@json_option
def react(
    places: tuple[Path, ...], selectors: tuple[str, ...], cuda_driver: str | None, as_json: bool
) -> int:
    """Hold nodes against the driver they have now: for changes that nobody announced.

    Records a wave for nodes with engines that are not qualified there, with what has to be
    judged; what runs goes on. Waves that were found before go on by a step. Again changes nothing.
    Exits 7 if there are such nodes.
    """
    from datetime import UTC, datetime

    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.fleet_reading import read_nodes
    from enginekeeper.orchestration.rollout.found import follow
    from enginekeeper.orchestration.rollout.found import react as hold_against
    from enginekeeper.orchestration.wave_planning import select_nodes

    registry = open_bench().registry
    nodes = select_nodes(read_nodes(registry, places), selectors)
    now, named = datetime.now(UTC), [str(place.absolute()) for place in places]
    found = hold_against(registry, nodes, now=now, cuda_driver=cuda_driver, places=named)
    went_on = follow(registry, now=now, places=named)
    output = Output(as_json)
    rows = [{"node": name, "reasons": list(why)} for name, why in found.unqualified.items()]
    if as_json:
        output.json(
            {
                "unqualified": rows, "waves": found.waves, "unknown": dict(found.unknown),
                "went_on": [one.name for one in went_on],
            }
        )  # fmt: skip
    else:
        shown = [{**row, "reasons": "; ".join(row["reasons"])} for row in rows]
        output.table(shown, ("node", "reasons"))
        for name, why in found.unknown.items():
            output.note(f"{name}: {why}: --cuda-driver")
        for name in found.waves:
            output.note(f"recorded: enginekeeper wave status {name}")
        for one in went_on:
            output.note(f"wave {one.name}: {one.phase}")
    return ExitCode.DRIFT if rows or found.unknown else ExitCode.OK
