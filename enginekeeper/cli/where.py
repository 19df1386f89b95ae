"""`where`: which engines are on this node, and whether they may run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.fleet.placements import Placement
    from enginekeeper.orchestration.bench import Bench
    from enginekeeper.orchestration.nodes import ThisNode
    from registry.types import Engine


@click.command()
@click.option("--model", help="Only engines of this model.")
@click.option("--engine", "engine_id", help="Only this engine, by id or the start of one.")
@click.option(
    "--forget", type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="Expect no engine in DIRECTORY of this node any more; removes no file.",
)  # fmt: skip
@json_option
def where(model: str | None, engine_id: str | None, forget: Path | None, as_json: bool) -> int:
    """Show the engines that were fetched to this node: path, bytes verified, gate.

    Exits 7 if one of them is CHANGED, UNREADABLE or MISSING where it was put; a closed gate alone
    is no drift. The gate is asked of the GPU for an engine that was built for one, where NVML
    finds a GPU; of the CPU for every other.

    Other nodes are not asked: `ek agent once` says the same of each.
    """
    from enginekeeper.fleet.placements import INTACT, MISSING, placements
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.nodes import ThisNode
    from enginekeeper.orchestration.placing import forget as forget_it

    bench = open_bench()
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
    output = Output(as_json)
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
    from enginekeeper.fleet.placements import MISSING, bytes_now

    if engine is None:
        there = placement.path.is_dir()
        return {"engine": placement.engine.short, "model": None, "path": str(placement.path),
                "bytes": "UNKNOWN" if there else MISSING, "gate": "closed",
                "rule": "unknown-engine"}  # fmt: skip
    decision = node.bench.registry.gate(engine.digest, node.meets(engine.key))
    return {
        "engine": engine.digest.short,
        "model": engine.model_name,
        "variant": engine.variant,
        "path": str(placement.path),
        "bytes": bytes_now(placement, key=engine.key.digest(), simulated=engine.simulated),
        "gate": str(decision.outcome),
        "rule": decision.rule,
        "evidence": f"fetched {placement.placed_at.isoformat(timespec='seconds')}",
        "waived": "; ".join(decision.waived) or None,
    }
