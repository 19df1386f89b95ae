"""`sim`: what is not there, for demos and for trying things; always marked simulated."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.group()
def sim() -> None:
    """Make nodes that are not there, to try plans and screens on."""


@sim.command()
@click.option("--nodes", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same makes the same.")
@click.option("--prefix", default="sim", show_default=True, help="What their names begin with.")
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.jsonl",
    help="Write their inventories there, one a line, for `wave plan --inventory`.",
)  # fmt: skip
@click.option("--join", "joining", is_flag=True, help="Enrol them as simulated in the catalogue.")
@json_option
def fleet(
    nodes: int, seed: int, prefix: str, file: Path | None, joining: bool, as_json: bool
) -> int:
    """Make up a fleet: GPUs of four kinds, three drivers, one node in fifty with a lost GPU.

    The catalogue's engines for GPUs are put on nodes whose GPU they were built for, and one on each
    node runs. With --join they are in `nodes`, `where`, `drift` and plans of waves, marked
    simulated; nobody gets their tokens. Retire them with `node retire`.
    """
    import json

    from enginekeeper.fleet.made_up import FleetOrder, made_up_fleet
    from enginekeeper.fleet.node_files import write_whole
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.made_up_fleet import engines_by_product, join
    from registry.names import check_component

    if file is None and not joining:
        raise click.UsageError("Say --output FILE.jsonl, --join, or both.")
    check_component(prefix, where="--prefix")
    bench = open_bench()
    order = FleetOrder(nodes, bench.registry.clock(), prefix, seed)
    engines = engines_by_product(bench)
    if file is not None:
        lines = (json.dumps(one.as_dict()) for one in made_up_fleet(order, engines))
        write_whole(file, "".join(f"{line}\n" for line in lines))
    joined = join(bench, made_up_fleet(order, engines)) if joining else 0
    document = {"nodes": nodes, "engines": sum(map(len, engines.values())),
                "file": None if file is None else str(file), "joined": joined}  # fmt: skip
    Output(as_json).outcome(document, f"SIMULATED: {nodes} nodes, {joined} of them enrolled")
    return ExitCode.OK
