"""`sim`: a fleet that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.fleet.simulation import SimulatedPool
    from registry.queries import View

_MOST = 200_000


@click.group()
def sim() -> None:
    """Make simulated nodes, for demonstrations: enrolled as such, and marked everywhere."""


@sim.command()
@click.option("--nodes", "count", type=click.IntRange(1, _MOST), required=True)
@click.option("--pools", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--prefix", default="sim", show_default=True, help="How the nodes' names begin.")
@json_option
def fleet(count: int, pools: int, prefix: str, as_json: bool) -> int:
    """Enrol simulated nodes of eight GPUs, with the catalogue's engines on them.

    They are as an ordinary fleet is: some have another driver, lack an engine, lost a GPU. Nobody
    speaks for them, so they are stale after three minutes: run it again, and they were heard now.
    `ek node retire` removes one.
    """
    from datetime import UTC, datetime

    from enginekeeper.fleet.simulation import simulate
    from enginekeeper.orchestration.bench import open_bench
    from registry.names import check_component

    check_component(prefix, where="--prefix")
    catalogue = open_bench().registry.catalogue
    with catalogue.read() as view:
        made = _pools(view, pools)
    done = simulate(catalogue, made, count, datetime.now(UTC), prefix=prefix)
    document = {"nodes": done.reported, "new": len(done.tokens), "pools": len(made)}
    Output(as_json).outcome(
        document,
        f"SIMULATED: {done.reported} nodes in {len(made)} pools, {len(done.tokens)} new",
    )
    return ExitCode.OK


def _pools(view: View, count: int) -> list[SimulatedPool]:
    """Returns pools of the GPUs that engines were built for, three engines on each."""
    from enginekeeper.fleet.environments import GpuKind
    from enginekeeper.fleet.interface import DriverState
    from enginekeeper.fleet.simulation import SimulatedPool
    from registry.types import EngineFilter

    by_kind: dict[GpuKind, list[str]] = {GpuKind("NVIDIA H100 80GB HBM3", "9.0"): []}
    for _, digest, hard, *_ in view.fleet.engines_recorded(
        map(str, view.fleet.engine_ids(EngineFilter()))
    ):
        if "gpu_product" in hard:
            kind = GpuKind(hard["gpu_product"], hard["compute_capability"])
            by_kind.setdefault(kind, []).append(digest)
    kinds = [one for one in by_kind.items() if one[1]] or list(by_kind.items())
    drivers = DriverState("580.95.05", "13.0"), DriverState("595.71.05", "13.2")
    return [
        SimulatedPool(
            f"sim-{at:03d}", kind, *drivers, tuple(engines[at % max(len(engines), 1) :][:3])
        )
        for at in range(count)
        for kind, engines in [kinds[at % len(kinds)]]
    ]
