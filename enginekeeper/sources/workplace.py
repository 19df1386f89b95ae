"""Where sources are kept, and how their steps are run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.settings import Settings
from enginekeeper.sources.model_directory import PythonFor
from enginekeeper.toolchains.catalogue import lock_digest
from enginekeeper.toolchains.runner import StepOutcome, StepRun, run_step
from enginekeeper.toolchains.step_code import step_digest
from enginekeeper.work import WorkStore

TOOLCHAIN = "inductor"


@dataclass(frozen=True)
class Workplace:
    """Everything that bringing a source here needs besides the source."""

    settings: Settings
    python_for: PythonFor

    @property
    def root(self) -> Path:
        """The folder of everything about sources."""
        return self.settings.cache / "models"

    @property
    def store(self) -> WorkStore:
        """Models that were converted or downloaded, whole or not there."""
        return WorkStore(self.root)

    @property
    def memory(self) -> Path:
        """What was read of model directories before."""
        return self.root / "inspected"

    def made_by(self, step: str) -> dict[str, str]:
        """Returns what a step's product depends on besides its input."""
        lock = lock_digest(TOOLCHAIN, self.settings)
        return {"lock": str(lock), "steps": str(step_digest(step))}

    def run(
        self, step: str, job: Mapping[str, Any], *, minutes: float, network: bool = False
    ) -> StepOutcome:
        """Runs a step of the sources' toolchain; its log outlives its product."""
        directory = self.root / "logs" / f"{step}-{time.time_ns()}"
        run = StepRun(TOOLCHAIN, step, job, directory, minutes * 60, network=network)
        return run_step(run, python=self.python_for(TOOLCHAIN))
