"""Puts right what is known to be wrong in an exported checkpoint, in a copy, on record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.orchestration.stages import Checkpoint, Made, Source, made_once
from enginekeeper.orchestration.tools import REPAIRING
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.validation.repair import apply_repairs, propose_repairs
from registry.digests import Digest
from registry.manifests import Manifest
from registry.types import Repair


def repaired(
    shop: Workshop, source: Source, exported: Made, *, wanted: bool
) -> tuple[Checkpoint, tuple[Repair, ...]]:
    """Returns the checkpoint to build from and what was repaired in it.

    Without anything to repair, or when repairs are not wanted, that is the exported one itself.
    """
    directory = exported.path / "checkpoint"
    config = read_json_object(source.path / "config.json")
    proposed = propose_repairs(config, directory) if wanted else ()
    if not proposed:
        return Checkpoint(directory, Digest.parse(exported.record["digest"])), ()
    inputs = {
        "checkpoint": exported.record["digest"],
        "repairs": [asdict(one) for one in proposed],
        "made_by": shop.code(*REPAIRING),
    }

    def make(product: Path) -> dict[str, Any]:
        apply_repairs(directory, product / "checkpoint", proposed)
        manifest = Manifest.of_directory(product / "checkpoint", "checkpoint")
        return {"digest": str(manifest.digest)}

    made = made_once(shop, "repaired", inputs, make)
    recorded = tuple(Repair(one.rule, one.field, one.was, one.now, one.reason) for one in proposed)
    return Checkpoint(made.path / "checkpoint", Digest.parse(made.record["digest"])), recorded
