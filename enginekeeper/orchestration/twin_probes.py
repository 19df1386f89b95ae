"""Asks an engine of the embedded builder beside its own dequantized checkpoint.

By layers, by linears, and where both end what they say: one twin is written for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.orchestration import stages
from enginekeeper.orchestration.stages import Checkpoint, Made, Probe, Source
from enginekeeper.orchestration.tokenizer_probe import files_of
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.own_code import PACKAGE
from enginekeeper.validation.twin import write_checkpoint_twin
from registry.digests import digest_file

LAYERS, LINEARS, ENDINGS = "layers.safetensors", "linears.safetensors", "endings.json"
STEPS = {"probe_layers": LAYERS, "probe_linears": LINEARS, "probe_endings": ENDINGS}
"""Each step with the file that it writes."""

QUESTIONS = PACKAGE / "data" / "probes" / "questions-v1.json"
"""What is answered in a few words."""

ANSWER_TOKENS = 64
"""After which an answer is cut."""


@dataclass(frozen=True)
class Beside:
    """What an engine is held against, and how it is asked."""

    source: Source
    checkpoint: Checkpoint
    shipped: Path | None
    """Where the tokenizer lies that serves the engine, if anybody knows."""
    probe: Probe
    prompts: Sequence[int]
    nudge: Mapping[str, Any]


def probe_beside_twin(shop: Workshop, engine: Made, beside: Beside, *, name: str) -> Made:
    """Compares a verified engine with its dequantized checkpoint, in every way of STEPS."""
    source, probe, shipped = beside.source, beside.probe, beside.shipped
    prompts = list(beside.prompts)
    inputs = {
        "prompts": prompts,
        "longest": stages.PROBE_TOKENS,
        "nudge": dict(beside.nudge),
        "model": str(source.digest),
        "checkpoint": str(beside.checkpoint.digest),
        "engine": engine.record["digest"],
        "tokens": str(probe.tokens.key),
        "questions": str(digest_file(QUESTIONS)),
        "most": ANSWER_TOKENS,
        "source": files_of(source.path),
        "shipped": None if shipped is None else files_of(shipped),
        "numerics": shop.code("configs", "validation"),
        "made_by": [shop.identity("inductor", step) for step in STEPS],
    }

    def make(directory: Path) -> dict[str, Any]:
        twin = directory / "twin"
        write_checkpoint_twin(source.path, beside.checkpoint.path, twin)
        both = {"engine": str(engine.path / "engine"), "twin": str(twin)}
        parts = {
            "nudge": dict(beside.nudge),
            "tokens": str(probe.tokens.path / "tokens.json"),
            "prompts": prompts,
            "longest": stages.PROBE_TOKENS,
        }
        endings = {
            "source": str(source.path),
            "shipped": None if shipped is None else str(shipped.absolute()),
            "questions": str(QUESTIONS),
            "most": ANSWER_TOKENS,
        }
        seconds = 0.0
        for step, file in STEPS.items():
            asked = endings if file == ENDINGS else parts
            job = {**both, **asked, "output": str(directory / file)}
            seconds += shop.run("inductor", step, job, name=name, minutes=60).seconds
        shutil.rmtree(twin)
        return {"seconds": seconds}

    return stages.made_once(shop, "engine-beside-twin", inputs, make)
