"""`resolve`: which engine this node is to run."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output


@click.command()
@click.argument("model")
@click.option("--channel", "name", required=True, metavar="CHANNEL", help="Of which channel.")
@click.option(
    "--node", type=click.Choice(["here"]), default="here", show_default=True,
    help="On which node; another one is asked about by --environment.",
)  # fmt: skip
@click.option(
    "--environment", type=NamedPath(),
    help="JSON file of another node's environment; this node's if left out.",
)  # fmt: skip
@json_option
def resolve(
    model: str, name: str, node: str, environment: Path | None, as_json: bool,  # noqa: ARG001 - the one node there is
) -> int:  # fmt: skip
    """Name the engine that a channel means for MODEL on this node, and what the gate says of it.

    Named, too, is the container image that assignments to this node want it in, if any does. Exits
    as `gate` does; 4 if the channel has no engine for this hardware and CUDA. `pull` brings
    it here.
    """
    return show_resolution(model, name, environment, Output(as_json))


def show_resolution(model: str, channel: str, environment: Path | None, output: Output) -> int:
    """Prints what a channel means on a node and returns the gate's exit code."""
    from enginekeeper.cli._bundles import BUNDLE
    from enginekeeper.cli.gate import CODES, read_environment
    from enginekeeper.configs.vllm_bundle import is_vllm_bundle
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.images_here import images_of
    from enginekeeper.orchestration.nodes import ThisNode

    bench = open_bench()
    images: tuple[str, ...] = ()
    if environment is None:
        found = ThisNode(bench).resolve(model, channel)
        images = images_of(bench, model, channel)
    else:
        found = bench.registry.resolve(channel, model, read_environment(environment))
    decision = found.decision
    mark = "SIMULATED, made by a double\n" if found.engine.simulated else ""
    mark += f"{BUNDLE}\n" if is_vllm_bundle(found.engine.key) else ""
    text = (
        f"{mark}{found.engine.digest}\n  variant:  {found.engine.variant}\n"
        f"  gate:     {decision.outcome}: {decision.reason}\n  rule:     {decision.rule}\n"
        f"  on:       {decision.environment}"
        + "".join(f"\n  in:       {image}, as it is assigned" for image in images)
    )
    output.document({**found.as_dict(), "containers": list(images)}, text)
    return CODES[str(decision.family)]
