"""`where`: which engine is where, over the fleet or on this node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Moment, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.fleet.placements import Placement
    from enginekeeper.orchestration.bench import Bench
    from enginekeeper.orchestration.nodes import ThisNode
    from registry.types import Engine


@click.command()
@click.option("--model", help="Only engines of this model.")
@click.option("--engine", "engine_id", help="Only this engine, by id or the start of one.")
@click.option("--recipe", help="Only engines of this recipe.")
@click.option("--channel", help="Only engines that this channel resolves to now.")
@click.option(
    "--cuda", metavar="VERSIONS", help="Only engines of this CUDA runtime: 12, >=12.4,<13."
)
@click.option("--node", help="Only on this node.")
@click.option("--gpu-uuid", metavar="UUID", help="Only on the node of this GPU, or slice.")
@click.option(
    "--driver", metavar="VERSIONS", help="Only on nodes with such a driver: R580, 580.95, >=570."
)
@click.option("--at", type=Moment(), metavar="TIME", help="As it was then: 2026-11-26T12:00:00Z.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@click.option("--here", is_flag=True, help="This node alone, and what the gate says here.")
@click.option(
    "--forget", type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="Expect no engine in DIRECTORY of this node any more; removes no file.",
)  # fmt: skip
@json_option
def where(
    *, model: str | None, engine_id: str | None, here: bool, forget: Path | None, as_json: bool,
    **asked: Any,  # noqa: ANN401 - what click parsed
) -> int:  # fmt: skip
    """Show which engine is where.

    Over the fleet, where any node is enrolled: what nodes reported, each row with its evidence
    (a process seen on a GPU, one declared, or files on disk alone) and when the node was heard
    last. Exits 0 whatever is found: `ek drift` says what should be otherwise.

    With --here, or where no node is enrolled: the engines that were fetched to this node, bytes
    verified now, and the gate. The gate is asked of the GPU for an engine that was built for one,
    where NVML finds a GPU; of the CPU for every other. Exits 7 if an engine is CHANGED, UNREADABLE
    or MISSING where it was put; a closed gate alone is no drift.
    """
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    fleet_only = sorted(name for name, value in asked.items() if value is not None)
    if fleet_only and (here or forget is not None):
        option = fleet_only[0].replace("_", "-")
        raise click.UsageError(f"--{option} asks the fleet, --here and --forget this node")
    if not here and forget is None:
        with bench.registry.catalogue.read() as view:
            enrolled = view.fleet.any_node()
        if enrolled or fleet_only:
            from enginekeeper.cli._where_fleet import show_fleet

            return show_fleet(bench, Output(as_json), model=model, engine=engine_id, **asked)
    return _show_here(bench, Output(as_json), model, engine_id, forget)


def _show_here(
    bench: Bench, output: Output, model: str | None, engine_id: str | None, forget: Path | None
) -> int:
    from enginekeeper.fleet.placements import INTACT, MISSING, placements
    from enginekeeper.orchestration.nodes import ThisNode
    from enginekeeper.orchestration.placing import forget as forget_it

    node = ThisNode(bench)
    if forget is not None:
        forget_it(bench, forget)
    wanted = None if engine_id is None else bench.registry.engine(engine_id).digest
    found = [
        (placement, _row(node, placement, engine))
        for placement in placements(bench.settings.home)
        if wanted in (None, placement.engine)
        for engine in [_recorded(bench, placement)]
        if model is None or (engine is not None and engine.model_name == model)
    ]
    rows = [row for _, row in found]
    output.table(rows, ("engine", "variant", "path", "bytes", "gate", "rule", "evidence", "waived"))
    for placement, row in found:
        if row["bytes"] == MISSING:
            output.note(
                f"{placement.path} is gone; if it should be: "
                f"enginekeeper where --forget {placement.path}"
            )
    for line in node.described():
        output.note(f"this node: {line}")
    drifted = any(row["bytes"] != INTACT for row in rows)
    return ExitCode.DRIFT if drifted else ExitCode.OK


def _recorded(bench: Bench, placement: Placement) -> Engine | None:
    from registry.errors import RecordNotFoundError

    try:
        return bench.registry.engine(placement.engine)
    except RecordNotFoundError:
        return None


def _row(node: ThisNode, placement: Placement, engine: Engine | None) -> dict[str, Any]:
    from enginekeeper.cli._bundles import variant_of
    from enginekeeper.fleet.placements import MISSING, bytes_now

    if engine is None:
        there = placement.path.is_dir()
        return {"engine": placement.engine.short, "model": None, "path": str(placement.path),
                "bytes": "UNKNOWN" if there else MISSING, "gate": "closed",
                "rule": "unknown-engine"}  # fmt: skip
    decision = node.gate(engine)
    return {
        "engine": engine.digest.short,
        "model": engine.model_name,
        "variant": variant_of(engine.variant, engine.recipe),
        "path": str(placement.path),
        "bytes": bytes_now(placement, key=engine.key.digest(), simulated=engine.simulated),
        "gate": str(decision.outcome),
        "rule": decision.rule,
        "evidence": f"fetched {placement.placed_at.isoformat(timespec='seconds')}",
        "waived": "; ".join(decision.waived) or None,
    }
