"""Where engines are put: noted on the node itself, and in the catalogue for everybody else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from enginekeeper.fleet.placements import forget_placement, record_placement
from enginekeeper.orchestration.bench import Bench
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.types import Placement


def record(bench: Bench, engine: Digest, directory: Path) -> None:
    """Records that an engine was written to a directory of this node."""
    found = bench.registry.engine(engine)
    record_placement(
        bench.settings.home, engine, directory, key=found.key.digest(), simulated=found.simulated
    )
    placement = Placement(bench.node, str(directory.resolve()), engine, datetime.now(UTC))
    with bench.registry.catalogue.edit(actor=bench.registry.actor) as draft:
        draft.add_placement(placement)


def forget(bench: Bench, directory: Path) -> None:
    """Removes both records of a directory of this node; raises RecordNotFoundError without any.

    The files stay: they are whoever put them there's.
    """
    known_here = forget_placement(bench.settings.home, directory)
    try:
        with bench.registry.catalogue.edit(actor=bench.registry.actor) as draft:
            draft.forget_placement(bench.node, str(directory.resolve()))
    except RecordNotFoundError:
        if not known_here:
            raise
