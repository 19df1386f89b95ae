"""`channel`: names that resolve to qualified engines, per model and target."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output


@click.group()
def channel() -> None:
    """Show channels and put engines into them; only qualified engines get in."""


@channel.command("list")
@click.option("--model", help="Only channels of this model.")
@json_option
def list_command(model: str | None, as_json: bool) -> int:
    """List what every channel resolves to."""
    from enginekeeper.orchestration.bench import open_bench

    rows = [one.as_dict() for one in open_bench().registry.channels(model)]
    for row in rows:
        row["engine_id"] = row["engine"].partition(":")[2][:12]
    Output(as_json).table(rows, ("model_name", "target", "channel", "engine_id", "moved_at"))
    return ExitCode.OK


@channel.command("set")
@click.argument("name", metavar="CHANNEL")
@click.argument("engine_id", metavar="ENGINE")
@click.option("--dry-run", is_flag=True, help="Only ask the gate.")
@json_option
def set_command(name: str, engine_id: str, dry_run: bool, as_json: bool) -> int:
    """Let CHANNEL resolve to ENGINE for its model and target, if it is qualified here."""
    from enginekeeper.orchestration.bench import open_bench

    bench, output = open_bench(), Output(as_json)
    if dry_run:
        bench.registry.require_stored(bench.registry.engine(engine_id))
        decision = bench.registry.gate(engine_id, bench.environment)
        decision.require_open()
        output.outcome(decision.as_dict(), "the gate is open; nothing was changed")
        return ExitCode.OK
    position = bench.registry.set_channel(
        name, engine_id, bench.environment, actor=getpass.getuser()
    )
    output.outcome(
        position.as_dict(),
        f"{position.model_name} on {position.target}: {name} is now {position.engine.short}",
    )
    return ExitCode.OK


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
    from enginekeeper.cli.gate import CODES, read_environment
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    where = bench.environment if environment is None else read_environment(environment)
    found = bench.registry.resolve(name, model, where)
    decision = found.decision
    text = (
        f"{found.engine.digest}\n  variant:  {found.engine.variant}\n"
        f"  gate:     {decision.outcome}: {decision.reason}\n  rule:     {decision.rule}"
    )
    Output(as_json).document(found.as_dict(), text)
    return CODES[str(decision.family)]


@channel.command()
@click.argument("model")
@click.argument("name", metavar="CHANNEL")
@json_option
def history(model: str, name: str, as_json: bool) -> int:
    """List every move of a channel, newest first."""
    from enginekeeper.errors import MissingError
    from enginekeeper.orchestration.bench import open_bench

    rows = [one.as_dict() for one in open_bench().registry.channel_history(name, model)]
    if not rows:
        raise MissingError(
            "no such channel", where=f"{model}: {name}", remedy="enginekeeper channel list"
        )
    Output(as_json).table(rows, ("moved_at", "target", "engine", "previous", "actor"))
    return ExitCode.OK
