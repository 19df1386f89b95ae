"""`channel`: names that resolve to qualified engines, per model and target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.gate import GateDecision
    from registry.types import ChannelMove


@click.group()
def channel() -> None:
    """Show channels, fill and empty them, roll them back; only qualified engines get in."""


@channel.command("list")
@click.option("--model", help="Only channels of this model.")
@json_option
def list_command(model: str | None, as_json: bool) -> int:
    """List what every channel resolves to."""
    from enginekeeper.orchestration.bench import open_bench

    rows = [one.as_dict() for one in open_bench().registry.channels(model)]
    for row in rows:
        row["engine_id"] = row["engine"].partition(":")[2][:12]
        if not as_json:
            row["simulated"] = "SIMULATED" if row["simulated"] else None
    columns = ("model_name", "target", "channel", "engine_id", "moved_at")
    marked = any(row["simulated"] for row in rows)
    Output(as_json).table(rows, (*columns, "simulated") if marked else columns)
    return ExitCode.OK


@channel.command("set")
@click.argument("name", metavar="CHANNEL")
@click.argument("engine_id", metavar="ENGINE")
@click.option("--dry-run", is_flag=True, help="Only say whether it would; exits as it would.")
@json_option
def set_command(name: str, engine_id: str, dry_run: bool, as_json: bool) -> int:
    """Let CHANNEL resolve to ENGINE for its model and target, if it is qualified here."""
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.nodes import ThisNode

    bench, output = open_bench(), Output(as_json)
    engine = bench.registry.engine(engine_id)
    environment = ThisNode(bench).meets(engine.key)
    if dry_run:
        decision = bench.registry.rehearse_channel(name, engine_id, environment)
        output.outcome(decision.as_dict(), "the gate is open; nothing was changed")
        return ExitCode.OK
    position = bench.registry.set_channel(name, engine_id, environment, actor=bench.registry.actor)
    output.outcome(
        position.as_dict(),
        f"{position.model_name} on {position.target}: {name} is now {position.engine.short}",
    )
    return ExitCode.OK


@channel.command()
@click.argument("name", metavar="CHANNEL")
@click.option("--model", help="Of which model, if the channel resolves for several.")
@click.option("--target", help="For which target, if it resolves for several.")
@click.option("--to", "engine_id", metavar="ENGINE", help="To this engine of its history.")
@click.option(
    "--here", is_flag=True,
    help="Ask the gate for this node, not for the environment of the channel's latest move.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say where it would lead, and whether it may.")
@json_option
def rollback(
    name: str, model: str | None, target: str | None, engine_id: str | None, here: bool,
    dry_run: bool, as_json: bool,
) -> int:  # fmt: skip
    """Let CHANNEL resolve to the engine before, through the gate; again goes back one more.

    An engine that was quarantined, revoked or lost its qualification is refused: name another one
    with --to. --dry-run lists where it can go, and what the gate says of each; it exits as the
    rollback would.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.nodes import ThisNode
    from registry.channels import find_place, moves_at, rollback_target

    bench, output = open_bench(), Output(as_json)
    with bench.registry.catalogue.read() as view:
        place = find_place(view, name, model=model, target=target)
        wanted = rollback_target(view, place, moves_at(view, place), engine_id) if here else None
    environment = None if wanted is None else ThisNode(bench).meets(wanted.key)
    if dry_run:
        rows = [_choice(one) for one in bench.registry.rollback_choices(place, environment)]
        output.table(rows, ("engine", "gate", "rule", "reason"))
        output.note(f"{place}: nothing was changed")
        bench.registry.rehearse_rollback(place, to=engine_id, environment=environment)
        return ExitCode.OK
    position = bench.registry.roll_back(
        place, actor=bench.registry.actor, to=engine_id, environment=environment
    )
    output.outcome(position.as_dict(), f"{place} is now {position.engine.short}")
    return ExitCode.OK


@channel.command()
@click.argument("name", metavar="CHANNEL")
@click.option("--model", help="Of which model, if the channel resolves for several.")
@click.option("--target", help="For which target, if it resolves for several.")
@click.option("--dry-run", is_flag=True, help="Only show what would be taken out.")
@json_option
def clear(
    name: str, model: str | None, target: str | None, dry_run: bool, as_json: bool
) -> int:  # fmt: skip
    """Let CHANNEL resolve to nothing for one model and target; a rollback undoes it.

    Stops nothing that runs. A channel in which nothing is left takes real or simulated engines,
    whichever comes next.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.channels import find_place

    registry = open_bench().registry
    with registry.catalogue.read() as view:
        place = find_place(view, name, model=model, target=target)
    move = registry.clear_channel(place, actor=registry.actor, dry_run=dry_run)
    taken = None if move is None else str(move.engine)
    said = "was empty; nothing was changed"
    if move is not None:
        said = f"{'would be' if dry_run else 'is'} empty: {move.engine.short} is taken out"
    document = {"channel": place.channel, "model_name": place.model, "target": place.target,
                "engine": taken, "dry_run": dry_run}  # fmt: skip
    Output(as_json).outcome(document, f"{place} {said}")
    return ExitCode.OK


def _choice(decision: GateDecision) -> dict[str, Any]:
    document = decision.as_dict()
    return {**document, "engine": decision.engine.short, "gate": document["outcome"]}


@channel.command()
@click.argument("model")
@click.argument("name", metavar="CHANNEL")
@click.option(
    "--environment",
    type=NamedPath(),
    help="JSON file of another node's environment; this node's if left out.",
)
@json_option
def resolve(model: str, name: str, environment: Path | None, as_json: bool) -> int:
    """Name the engine that CHANNEL means for MODEL on this node, and what the gate says of it.

    Exits as `gate` does; 4 if the channel has no engine for this hardware and CUDA.
    """
    from enginekeeper.cli.resolve import show_resolution

    return show_resolution(model, name, environment, Output(as_json))


@channel.command()
@click.argument("model")
@click.argument("name", metavar="CHANNEL")
@json_option
def history(model: str, name: str, as_json: bool) -> int:
    """List every move of a channel, newest first."""
    from enginekeeper.errors import MissingError
    from enginekeeper.orchestration.bench import open_bench

    rows = [_move(one) for one in open_bench().registry.channel_history(name, model)]
    columns = ("moved_at", "target", "move", "engine", "previous", "actor")
    if not rows:
        raise MissingError(
            "no such channel", where=f"{model}: {name}", remedy="enginekeeper channel list"
        )
    Output(as_json).table(rows, columns)
    return ExitCode.OK


def _move(one: ChannelMove) -> dict[str, Any]:
    """Returns a move as a row; one that emptied the place names what was there as `previous`."""
    if one.cleared:
        return {**one.as_dict(), "move": "clear", "engine": None}
    return {**one.as_dict(), "move": "rollback" if one.rollback else "set"}
