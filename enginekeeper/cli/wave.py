"""`wave`: what a driver change would break, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._wave_nodes import check, hooks, react
from enginekeeper.cli._wave_options import (
    change_options,
    change_to,
    fleet_options,
    traffic_of,
    traffic_options,
)
from enginekeeper.cli._wave_rollout import abort, advance, resume, rollback, run, start, status
from enginekeeper.cli._wave_text import left_out_said, some

if TYPE_CHECKING:
    from enginekeeper.orchestration.waves import WaveGroup, WavePlan


@click.group()
def wave() -> None:
    """Plan driver and CUDA changes over the fleet, and roll them out.

    plan shows what a driver would break; start begins, advance or run lets it go on.
    """


for _command in (start, status, advance, run, abort, resume, rollback, check, hooks, react):
    wave.add_command(_command)


@wave.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List every wave, the oldest first."""
    from enginekeeper.cli._wave_text import WAVE_COLUMNS, wave_row
    from enginekeeper.orchestration.bench import open_bench

    with open_bench().registry.catalogue.read() as view:
        found = view.waves.all()
    Output(as_json).table([wave_row(one, count) for one, count in found], WAVE_COLUMNS)
    return ExitCode.OK


@wave.command()
@change_options(required=True)
@fleet_options
@traffic_options
@json_option
def plan(
    driver: str,
    cuda: str | None,
    cuda_driver: str | None,
    places: tuple[Path, ...],
    selectors: tuple[str, ...],
    traffic: str | None,
    traffic_query: str | None,
    as_json: bool,
) -> int:
    """Show what a driver would break: for each engine and GPU, not for each node.

    Asks the last reports of the enrolled nodes, or inventories. Starts nothing and asks no node.
    With --traffic nodes are named with the least busy first, those of which nothing is known last.
    Exits 0 if every node may be upgraded now; 7 if some must wait, which is drift that has not
    happened yet: engines to be judged, built or found first; 8 if some engine is refused, since no
    wait helps there: it needs another toolchain, another recipe, or the node stays where it is.
    8 outweighs 7. An operator's script upgrades on 0 only.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.fleet_reading import plan_of
    from enginekeeper.orchestration.waves import by_traffic, plan_document

    change, known = change_to(driver, cuda, cuda_driver), traffic_of(traffic, traffic_query)
    found = plan_of(open_bench().registry, places, selectors, change)
    if known is not None:
        found = by_traffic(found, known)
    output = Output(as_json)
    if as_json:
        output.json(plan_document(found))
    else:
        output.table([_row(group) for group in found.groups], _COLUMNS)
        for line in _notes(found):
            output.note(line)
    if found.refused:
        return ExitCode.REFUSED
    return ExitCode.DRIFT if found.held else ExitCode.OK


_COLUMNS = ("action", "engine", "variant", "gpu", "nodes", "build_hours", "megabytes", "rules")


def _row(group: WaveGroup) -> dict[str, Any]:
    mig = f" {group.kind.mig_profile}" if group.kind.mig_profile else ""
    hours = group.build_gpu_hours
    return {
        "action": str(group.action),
        "engine": group.engine.digest.partition(":")[2][:12],
        "variant": group.engine.variant,
        "gpu": f"{group.kind.product}{mig}",
        "nodes": len(group.nodes),
        "build_hours": None if hours is None else f"{hours:.2f}",
        "megabytes": f"{group.bytes / 1e6:.0f}",
        "rules": ", ".join(one.rule.identifier for one in group.decision.fired),
    }


def _notes(plan: WavePlan) -> list[str]:
    change = plan.change
    lines = ["SIMULATED: these nodes are no real ones"] if plan.simulated else []
    lines += [left_out_said(plan)] if plan.left_out else []
    lines.append(f"driver {change.driver.version}, CUDA {change.driver.cuda}")
    for group in plan.groups:
        for one in group.decision.deciding if group.action != "reuse" else ():
            lines.append(f"{group.action} {group.engine.digest.partition(':')[2][:12]}: {one}")
            lines += [f"  next:   {one.finding.remedy}"] if one.finding.remedy else []
            lines.append(f"  source: {one.rule.source}")
    for held in plan.held:
        lines.append(f"HOLD {some(held.nodes)}")
        lines += [f"  {reason}" for reason in held.reasons]
    waiting = sum(len(one.nodes) for one in plan.held)
    hours = "-" if plan.build_gpu_hours is None else f"{plan.build_gpu_hours:.2f}"
    lines.append(
        f"{len(plan.ready)} nodes may be upgraded now, {waiting} must wait, {len(plan.untouched)} "
        f"have no GPU; {plan.already} have this driver already"
    )
    lines.append(_order_said(plan))
    judging = "nothing" if plan.judging_gpu_hours == 0 else "not known"
    lines.append(
        f"builds: {hours} GPU-hours, {plan.bytes / 1e6:.0f} MB to fetch; judging: {judging}"
    )
    return lines


def _order_said(plan: WavePlan) -> str:
    if plan.traffic is None:
        return "nodes by name: nobody said how busy they are (--traffic)"
    names = [*plan.ready, *(name for one in plan.held for name in one.nodes)]
    unknown = plan.traffic.unknown(names)
    last = f"; {unknown} of which nothing is known come last, by name" if unknown else ""
    return f"nodes by traffic, the least first, as {plan.traffic.source} has it{last}"
