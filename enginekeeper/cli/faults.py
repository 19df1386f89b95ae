"""`faults`: the fault laboratory. Nothing here changes a checkpoint: faults go into copies."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option, model_option
from enginekeeper.cli._output import Output

_LAYERS = ("first", "middle", "last", "all")
_LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")


@click.group()
def faults() -> None:
    """Put known faults into copies of a checkpoint, and see what the audits say."""


@faults.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List every fault and healthy control, with its class and its dose."""
    from enginekeeper.faults.catalogue import FAULTS
    from enginekeeper.faults.grid import describe

    columns = ("fault", "class", "dose", "usual", "target", "seen_by", "what")
    Output(as_json).table([describe(fault) for fault in FAULTS], columns)
    return ExitCode.OK


@faults.command("inject")
@click.argument("checkpoint", type=NamedPath())
@click.argument("fault")
@click.option("--dose", type=float, help="How much; `ek faults list` says of what.")
@click.option("--layers", type=click.Choice(_LAYERS), default="middle", show_default=True)
@click.option("--linear", type=click.Choice(_LINEARS), default="mlp.proj", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--to", "copy", type=click.Path(path_type=Path), required=True,
    help="Directory of the faulty copy; must not exist.",
)  # fmt: skip
@click.option(
    "--model", "model_dir", type=NamedPath(),
    help="The source model, for controls that quantize it anew.",
)  # fmt: skip
@json_option
def inject_command(
    checkpoint: Path,
    fault: str,
    dose: float | None,
    layers: str,
    linear: str,
    seed: int,
    copy: Path,
    model_dir: Path | None,
    as_json: bool,
) -> int:
    """Write a copy of CHECKPOINT with FAULT in it; what was done is in its faults.json.

    Inject into the copy again to have several faults at once.
    """
    from enginekeeper.faults.catalogue import named
    from enginekeeper.faults.fault import LAYERS, LINEARS, Target
    from enginekeeper.faults.injection import Injection, inject

    chosen = named(fault)
    target = Target(LAYERS[_LAYERS.index(layers)], LINEARS[_LINEARS.index(linear)], seed)
    injection = Injection(chosen, chosen.usual if dose is None else dose, target)
    record = inject(checkpoint, injection, copy, model_dir)
    culprits = ", ".join(record["culprits"][:4]) or "nothing"
    Output(as_json).outcome(record, f"written to {copy}; an audit should name {culprits}")
    return ExitCode.OK


@faults.command("run")
@click.argument("checkpoints", type=NamedPath(), nargs=-1, required=True)
@model_option
@click.option(
    "--grid", "grid_file", type=NamedPath(),
    help="Which faults in which doses; by default the newest grid that comes with Enginekeeper.",
)  # fmt: skip
@click.option(
    "--part", type=(click.IntRange(min=1), click.IntRange(min=1)), default=(1, 1), metavar="I N",
    help="Only every N-th case, from the I-th on; what other parts found is counted too.",
)  # fmt: skip
@json_option
def run_command(
    checkpoints: tuple[Path, ...],
    model_dir: Path,
    grid_file: Path | None,
    part: tuple[int, int],
    as_json: bool,
) -> int:
    """Audit every fault and control of a grid on each of CHECKPOINTS; print what was found.

    Each trial is recorded when it is done: interrupted, the command goes on where it was.
    """
    from enginekeeper.faults.campaign import Part, run
    from enginekeeper.faults.detection import document, render
    from enginekeeper.faults.grid import bundled_grid, load_grid
    from enginekeeper.settings import Settings

    records = Settings.from_environment().cache / "faults"
    path = grid_file or bundled_grid()
    grid, output = load_grid(path), Output(as_json)
    campaigns = [
        run(one, model_dir, grid, records, output.note, part=Part(*part)) for one in checkpoints
    ]
    found = document(campaigns, f"{path.stem} ({grid.digest.short})")
    output.document(found, render(found))
    return ExitCode.OK
