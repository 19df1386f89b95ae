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
    is no drift.

    Other nodes are not asked: a node agent comes with the fleet.
    """
    from enginekeeper.fleet.placements import placements
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.placing import forget as forget_it

    bench = open_bench()
    if forget is not None:
        forget_it(bench, forget)
    wanted = None if engine_id is None else bench.registry.engine(engine_id).digest
    found = [
        (placement, row)
        for placement in placements(bench.settings.home)
        if wanted in (None, placement.engine)
        for row in [_row(bench, placement)]
        if model in (None, row["model"])
    ]
    rows = [row for _, row in found]
    output = Output(as_json)
    output.table(rows, ("engine", "variant", "path", "bytes", "gate", "rule", "evidence", "waived"))
    for placement, row in found:
        if row["bytes"] == _MISSING:
            output.note(
                f"{placement.path} is gone; if it should be: "
                f"enginekeeper where --forget {placement.path}"
            )
    output.note(f"this node: {bench.environment}")
    drifted = any(row["bytes"] != _INTACT for row in rows)
    return ExitCode.DRIFT if drifted else ExitCode.OK


_INTACT, _MISSING = "verified", "MISSING"


def _row(bench: Bench, placement: Placement) -> dict[str, Any]:
    from registry.errors import RecordNotFoundError

    try:
        engine = bench.registry.engine(placement.engine)
    except RecordNotFoundError:
        there = placement.path.is_dir()
        return {"engine": placement.engine.short, "model": None, "path": str(placement.path),
                "bytes": "UNKNOWN" if there else _MISSING, "gate": "closed",
                "rule": "unknown-engine"}  # fmt: skip
    decision = bench.registry.gate(engine.digest, bench.environment)
    return {
        "engine": engine.digest.short,
        "model": engine.model_name,
        "variant": engine.variant,
        "path": str(placement.path),
        "bytes": _bytes(placement, engine),
        "gate": str(decision.outcome),
        "rule": decision.rule,
        "evidence": f"fetched {placement.placed_at.isoformat(timespec='seconds')}",
        "waived": "; ".join(decision.waived) or None,
    }


def _bytes(placement: Placement, engine: Engine) -> str:
    """Says in a word whether the engine's own bytes are where they were put."""
    from registry.errors import IntegrityError, InvalidRecordError
    from registry.manifests import Manifest

    if not placement.path.is_dir():
        return _MISSING
    try:
        found = Manifest.of_directory(
            placement.path, "engine", key=engine.key.digest(), simulated=engine.simulated
        )
    except (IntegrityError, InvalidRecordError) as error:
        return f"UNREADABLE: {error.what}"
    return _INTACT if found.digest == engine.digest else "CHANGED"
