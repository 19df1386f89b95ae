"""Runs what the double built: gives the checkpoint inside an engine back, for the CPU executor.

The double keeps the weights of each rank as they were, so the executor computes what the
checkpoint says; a GPU's kernels would add roundings of their own, which nothing here shows.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.building.simulated.plan_file import NoSimulatedPlanError, Plan, read_plan
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError

_QUANTIZATION = "quant_cfg.json"
"""Per-module recipes of a checkpoint with several; the release copies it into the engine."""


@dataclass(frozen=True)
class SimulatedEngine:
    """An engine directory of the double, ready to be run."""

    directory: Path
    config: dict[str, Any]
    """The checkpoint's config.json, as the engine has it."""

    plans: tuple[Plan, ...]
    version: str
    """The release it was built by, or said to be."""

    def described(self) -> dict[str, Any]:
        """Returns what decides what it computes: engines that agree in it compute the same."""
        extra = self.directory / _QUANTIZATION
        return {
            "config": self.config,
            "quantization": read_json_object(extra) if extra.is_file() else None,
            "weights": [plan.note.weights for plan in self.plans],
        }

    def unpack(self, place: Path) -> Path:
        """Writes the checkpoint that is inside; raises InputError where it is not whole."""
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        if (self.directory / _QUANTIZATION).is_file():
            shutil.copyfile(self.directory / _QUANTIZATION, place / _QUANTIZATION)
        for rank, plan in enumerate(self.plans):
            try:
                plan.write_weights(place / f"rank{rank}.safetensors")
            except NoSimulatedPlanError as error:
                raise InputError(str(error), remedy="build the engine again") from error
        return place


def load_engine(directory: Path, product: str) -> SimulatedEngine:
    """Opens an engine of the double on a simulated GPU.

    Raises InputError for an engine of another GPU, for one that has to be refitted first, and for
    whatever the double did not write.
    """
    document = read_json_object(directory / "config.json")
    where = str(directory / "config.json")
    config = document.get("pretrained_config")
    if document.get("simulated") is not True or not isinstance(config, dict):
        raise InputError("not an engine of the double", where=where, expected="simulated: true")
    paths = sorted(directory.glob("rank*.engine"), key=lambda path: (len(path.name), path.name))
    try:
        plans = tuple(read_plan(path) for path in paths)
    except NoSimulatedPlanError as error:
        raise InputError(str(error), where=where) from error
    for plan in plans:
        _check_runs(plan, product)
    return SimulatedEngine(directory, config, plans, str(document.get("version")))


def _check_runs(plan: Plan, product: str) -> None:
    if plan.note.device != product:
        raise InputError(
            "the plan was built on another GPU",
            where=str(plan.path),
            actual=plan.note.device,
            expected=product,
            remedy="an engine is bound to the GPU that built it: build it for this one",
        )
    if plan.note.stripped:
        raise InputError(
            "the plan has no weights, so it cannot be run",
            where=str(plan.path),
            remedy="refit it with the weights it was built from",
        )
