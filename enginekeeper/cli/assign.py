"""`assign`: what should run where."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

_SELECTOR = "SELECTOR picks nodes: LABEL=GLOB, several joined by commas; gpu=GLOB; or *."


@click.group()
def assign() -> None:
    """Say which channel of a model should run on which nodes.

    Nodes learn it with their next heartbeat; `ek drift` shows where it is otherwise. Starts and
    stops nothing.
    """


@assign.command(epilog=_SELECTOR)
@click.argument("selector")
@click.argument("model")
@click.argument("channel")
@json_option
def add(selector: str, model: str, channel: str, as_json: bool) -> int:
    """Let the nodes that SELECTOR picks run what CHANNEL of MODEL means on each.

    Says how many of today's nodes that is; none is no error: nodes may come later.
    """
    from datetime import UTC, datetime

    from enginekeeper.fleet.picking import NodeSelector
    from enginekeeper.fleet.profiles import Profile
    from enginekeeper.orchestration.bench import open_bench
    from registry.fleet.types import Assignment
    from registry.names import check_component

    picks = NodeSelector.parse(selector)
    check_component(model, where="model")
    check_component(channel, where="channel")
    registry = open_bench().registry
    one = Assignment(selector, model, channel, registry.actor, datetime.now(UTC))
    with registry.catalogue.edit(actor=registry.actor) as draft:
        is_new = draft.fleet.assign(one)
        fleet = draft.fleet
        fitting = {
            row for row, found in fleet.profiles().items() if picks(Profile.of_document(found))
        }
        nodes = sum(state.nodes for state in fleet.states() if state.profile in fitting)
        known = any((p.channel, p.model_name) == (channel, model) for p in draft.channels(model))
    output = Output(as_json)
    said = "assigned" if is_new else "was assigned already"
    output.outcome(
        {**one.as_dict(), "new": is_new, "nodes": nodes},
        f"{channel} of {model} {said} to {selector}: {nodes} nodes today",
    )
    if not known:
        output.note(f"channel {channel} of {model} is empty: enginekeeper channel set")
    return ExitCode.OK


@assign.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List what should run where."""
    from enginekeeper.orchestration.bench import open_bench

    with open_bench().registry.catalogue.read() as view:
        rows = [one.as_dict() for one in view.fleet.assignments()]
    Output(as_json).table(rows, ("model", "channel", "selector", "actor", "assigned_at"))
    return ExitCode.OK


@assign.command(epilog=_SELECTOR)
@click.argument("selector")
@click.argument("model")
@click.argument("channel")
@json_option
def remove(selector: str, model: str, channel: str, as_json: bool) -> int:
    """Take an assignment back; what runs goes on running."""
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.fleet.unassign(selector, model, channel)
    document = {"selector": selector, "model": model, "channel": channel}
    Output(as_json).outcome(document, f"{channel} of {model} is not assigned to {selector} now")
    return ExitCode.OK
