"""Runs one step in its toolchain: a job file in, a typed result file out, a log beside them.

Rules:

- a step sees an allow-list of this process's environment and nothing else: no cloud
  credentials, no tokens, no PYTHON* variables; what it needs to know is in its job;
- Python runs with `-s -E`: no user site, no PYTHON* variables. Not with `-I`, which would
  also take the script's own folder off the path, where its siblings are;
- without `network=True` a step is told to stay offline, and gets no proxy and no certificates;
- a result counts only if the process ended with status 0 and the file is in the agreed form;
- every way to fail has its own error (`enginekeeper.toolchains.errors`), naming step and log.

Example:
    run = StepRun("inductor", "materialize", {"gguf": a, "output": b}, directory, 600)
    outcome = run_step(run, python=ensure("inductor", settings))
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.toolchains.errors import StepDiskFullError, StepPlace, StepTimeoutError
from enginekeeper.toolchains.failures import explain_exit
from enginekeeper.toolchains.processes import Command, Ended, run_command
from enginekeeper.toolchains.results import StepOutcome, read_result
from registry.disks import is_full

__all__ = [
    "LIFELINE", "STEPS", "InToolchain", "Launcher", "StepOutcome", "StepRun", "launch_step",
    "run_step", "step_environment", "step_settings",
]  # fmt: skip

STEPS = Path(__file__).parents[1] / "steps"

_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CC", "CXX",
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH",
)  # fmt: skip
"""What a step may see of this process's environment."""

_PASSED_WITH_NETWORK = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HF_ENDPOINT",
)  # fmt: skip

_SET = {
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # a login of this user is not the step's
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns whenever a step forks
    # An OpenMP thread that waits spins by default, and starves the one it waits for when another
    # process holds a core: beside two busy processes a decode step took 3.7 s instead of 0.2 s.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",  # progress bars are not for logs
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

LIFELINE = "ENGINEKEEPER_STEP_LIFELINE"
"""`stdin`: the step's standard input closes when whoever runs it is gone (`steps/_step.py`)."""

_SET_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class StepRun:
    """One step to be run: where, with what, and for how long at most."""

    toolchain: str
    step: str
    job: Mapping[str, Any]
    directory: Path
    timeout_seconds: float
    network: bool = False
    scripts: Path = STEPS

    @property
    def place(self) -> StepPlace:
        """Names the step and its log, for errors."""
        return StepPlace(self.step, self.toolchain, self.directory / "step.log")


class Launcher(Protocol):
    """Says how a step is started, and removes what is left when it has ended."""

    def command(self, run: StepRun, script: Path, result: Path) -> Command:
        """Returns the command that runs a step's script."""
        ...

    def clean_up(self, run: StepRun) -> None:
        """Removes what ending that command leaves."""
        ...


@dataclass(frozen=True)
class InToolchain:
    """Starts steps with a toolchain's own interpreter, on this host."""

    python: Path

    def command(self, run: StepRun, script: Path, result: Path) -> Command:
        """Returns the command that runs a step's script."""
        job = run.directory / "job.json"
        return Command(
            arguments=(str(self.python), "-s", "-E", "-u", str(script), str(job), str(result)),
            environment=step_environment(os.environ, self.python, network=run.network),
            directory=run.directory,
            log=run.place.log,
            timeout_seconds=run.timeout_seconds,
        )

    def clean_up(self, run: StepRun) -> None:
        """Removes nothing: `run_command` leaves no process."""


def run_step(
    run: StepRun, *, python: Path, on_line: Callable[[str], None] | None = None
) -> StepOutcome:
    """Runs a step with an interpreter; see `launch_step`."""
    return launch_step(run, InToolchain(python), on_line)


def launch_step(
    run: StepRun, launcher: Launcher, on_line: Callable[[str], None] | None = None
) -> StepOutcome:
    """Runs a step to its end and returns its result; raises one of the step errors otherwise."""
    script = run.scripts / f"{run.step}.py"
    if not script.is_file():
        raise MissingError(f"there is no step called {run.step}", where=str(run.scripts))
    result = run.directory / "result.json"
    try:
        _prepare(run, result)
        command = launcher.command(run, script, result)
        try:
            ended = run_command(command, on_line)
        finally:
            launcher.clean_up(run)
    except (FileNotFoundError, PermissionError) as error:
        raise _not_startable(run, error) from error
    except OSError as error:
        if is_full(error):
            raise _disk_full(run) from error
        raise
    _check_end(run, ended)
    return read_result(result, run.place, seconds=ended.seconds)


def step_environment(
    environ: Mapping[str, str], python: Path, *, network: bool = False
) -> dict[str, str]:
    """Returns all a step sees of the environment; its toolchain's programs come first in PATH."""
    names = (*_PASSED, *(_PASSED_WITH_NETWORK if network else ()))
    passed = {name: environ[name] for name in names if name in environ}
    passed["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    return {**passed, **step_settings(network=network), LIFELINE: "stdin"}


def step_settings(*, network: bool) -> dict[str, str]:
    """Returns what is set for every step, wherever it runs."""
    return {**_SET, **({} if network else _SET_OFFLINE)}


def _prepare(run: StepRun, result: Path) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)  # that of an earlier run must not be taken for this one's
    job = json.dumps(dict(run.job), indent=2, sort_keys=True, allow_nan=False)
    (run.directory / "job.json").write_text(job, encoding="utf-8")


def _check_end(run: StepRun, ended: Ended) -> None:
    if ended.timed_out:
        raise StepTimeoutError(
            "was still running at its time limit and was killed",
            run.place,
            actual=f"{ended.seconds:.0f} s",
            expected=f"at most {run.timeout_seconds:g} s",
            remedy="see in the log how far it got; run again on a quieter machine",
        )
    if ended.status != 0:
        raise explain_exit(run.place, ended.status)


def _not_startable(run: StepRun, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"step {run.step} could not be started: {error.strerror}",
        where=str(error.filename or run.toolchain),
        remedy=f"enginekeeper toolchain sync {run.toolchain}",
    )


def _disk_full(run: StepRun) -> StepDiskFullError:
    return StepDiskFullError(
        "could not be given its job or write its log: the disk is full",
        run.place,
        remedy="free some space and run again: finished stages are kept",
    )
