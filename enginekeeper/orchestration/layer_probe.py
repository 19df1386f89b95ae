"""Asks an engine of the embedded builder layer by layer, beside its own checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginekeeper.orchestration import stages
from enginekeeper.orchestration.stages import Checkpoint, Made, Probe, Source
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.validation.twin import write_checkpoint_twin

LAYERS = "layers.safetensors"
STEP = "probe_layers"


def probe_layers(
    shop: Workshop,
    source: Source,
    checkpoint: Checkpoint,
    engine: Made,
    probe: Probe,
    *,
    prompts: Sequence[int],
    nudge: Mapping[str, Any],
    name: str,
) -> Made:
    """Compares every layer of a verified engine with that of its dequantized checkpoint."""
    inputs = {
        "prompts": list(prompts),
        "longest": stages.PROBE_TOKENS,
        "nudge": dict(nudge),
        "model": str(source.digest),
        "checkpoint": str(checkpoint.digest),
        "engine": engine.record["digest"],
        "tokens": str(probe.tokens.key),
        "numerics": shop.code("configs", "validation"),
        "made_by": shop.identity("inductor", STEP),
    }

    def make(directory: Path) -> dict[str, Any]:
        twin = directory / "twin"
        write_checkpoint_twin(source.path, checkpoint.path, twin)
        job = {
            "engine": str(engine.path / "engine"),
            "twin": str(twin),
            "nudge": dict(nudge),
            "tokens": str(probe.tokens.path / "tokens.json"),
            "prompts": list(prompts),
            "longest": stages.PROBE_TOKENS,
            "output": str(directory / LAYERS),
        }
        outcome = shop.run("inductor", STEP, job, name=name, minutes=60)
        shutil.rmtree(twin)
        return {"seconds": outcome.seconds}

    return stages.made_once(shop, "engine-layers", inputs, make)
