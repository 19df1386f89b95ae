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
@click.option("--container", metavar="IMAGE", help="In which image; NAME@sha256:… by its digest.")
@click.option("--any-container", is_flag=True, help="Take back in which image; any will do.")
@json_option
def add(
    selector: str, model: str, channel: str, container: str | None,
    any_container: bool, as_json: bool,
) -> int:  # fmt: skip
    """Let the nodes that SELECTOR picks run what CHANNEL of MODEL means on each.

    Says how many of today's nodes that is; none is no error: nodes may come later.

    With --container, `ek drift` holds the image in which it runs (ENGINEKEEPER_CONTAINER_IMAGE of
    its start) against IMAGE: a digest by digest, a name without one by text, so that a tag that was
    pushed again is not seen. Without it, an image that was named before stays.
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
    image = _image(container, is_any=any_container)
    registry, now = open_bench().registry, datetime.now(UTC)
    named_at = None if image is None else now
    one = Assignment(selector, model, channel, registry.actor, now, image, named_at)
    with registry.catalogue.edit(actor=registry.actor) as draft:
        fleet = draft.fleet
        is_new = fleet.assign(one)
        is_renamed = (image is not None or any_container) and fleet.run_in(one)
        kept = next(
            each for each in fleet.assignments()
            if (each.selector, each.model, each.channel) == (selector, model, channel)
        )  # fmt: skip
        fitting = {
            row for row, found in fleet.profiles().items() if picks(Profile.of_document(found))
        }
        nodes = sum(state.nodes for state in fleet.states() if state.profile in fitting)
        known = any((p.channel, p.model_name) == (channel, model) for p in draft.channels(model))
    output = Output(as_json)
    said = "assigned" if is_new else "was assigned already"
    where = "any container" if kept.container is None else kept.container
    named = f", in {where} from now on" if is_renamed else ""
    named = f", in {kept.container}" if kept.container and not is_renamed else named
    output.outcome(
        {**kept.as_dict(), "new": is_new, "nodes": nodes},
        f"{channel} of {model} {said} to {selector}{named}: {nodes} nodes today",
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
    Output(as_json).table(
        rows, ("model", "channel", "selector", "container", "actor", "assigned_at")
    )
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


def _image(container: str | None, *, is_any: bool) -> str | None:
    """Returns the image that is named, checked; None where none is."""
    from enginekeeper.fleet.images import ImageName

    if container is None:
        return None
    if is_any:
        raise click.UsageError("--container names an image, --any-container takes it back")
    return ImageName.parse(container).text
