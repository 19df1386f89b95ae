"""The workshop: where stages run, with what tools, and where their products and logs go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from enginekeeper.own_code import code_digest
from enginekeeper.toolchains.runner import (
    Launcher,
    StepOutcome,
    StepRun,
    launch_step,
    run_step,
)
from enginekeeper.toolchains.step_code import step_digest
from enginekeeper.work import WorkStore
from registry.digests import Digest

progress = logging.getLogger("enginekeeper.progress")


@dataclass(frozen=True)
class Workshop:
    """Everything a stage needs that is not its own input."""

    work: WorkStore
    logs: Path
    """Directory of this run's job files and step logs."""

    python_of: Callable[[str], Path]
    """Installs a toolchain if needed and returns its interpreter."""

    lock_of: Callable[[str], Digest]
    """Returns the digest of a toolchain's lock file without installing anything."""

    reference_toolchain: Callable[[], str]
    """Returns the toolchain that scores references on this machine."""

    launcher_of: Callable[[str], Launcher | None] = field(default=lambda _name: None)
    """Returns what starts a toolchain's steps in a container; None where it is installed here."""

    clock: Callable[[], float] = field(default=time.time)

    def run(
        self,
        toolchain: str,
        step: str,
        job: Mapping[str, Any],
        *,
        name: str,
        minutes: float,
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> StepOutcome:
        """Runs one step in its toolchain; its job, result and log stay below the run's logs.

        `on_line` gets every line the step says; what it raises ends the step.
        """
        launcher = self.launcher_of(toolchain)
        start = (
            partial(run_step, python=self.python_of(toolchain))
            if launcher is None
            else partial(launch_step, launcher=launcher)
        )
        directory = self._directory(name, step)
        progress.info("%s: %s ...", name, step)

        def hear(line: str) -> None:
            progress.debug("%s: %s: %s", name, step, line)
            on_line(line)

        run = StepRun(toolchain, step, job, directory, timeout_seconds=minutes * 60)
        outcome = start(run, on_line=hear)
        progress.info("%s: %s done in %.0f s", name, step, outcome.seconds)
        return outcome

    def identity(self, toolchain: str, step: str) -> dict[str, str]:
        """Returns what binds a product to how it was made: the lock, and the step's code."""
        return {
            "toolchain": toolchain,
            "lock": str(self.lock_of(toolchain)),
            "step": str(step_digest(step)),
        }

    def code(self, *paths: str) -> str:
        """Names our own code that something depends on: files, or all below a folder."""
        return code_digest(*paths)

    def _directory(self, name: str, step: str) -> Path:
        for attempt in range(1, 1000):
            directory = self.logs / name / (step if attempt == 1 else f"{step}.{attempt}")
            if not directory.exists():
                directory.mkdir(parents=True)
                return directory
        raise AssertionError("a thousand runs of one step in one run")
