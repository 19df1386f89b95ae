"""Starts steps in containers: a step run and a description become a box, and that a command.

GPUs are chosen here, on the host, before anything is started: the container sees no others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import Nvml
from enginekeeper.settings import Settings
from enginekeeper.toolchains.containers import command_lines, kubernetes_run
from enginekeeper.toolchains.containers.box import Box, mounts_of
from enginekeeper.toolchains.containers.command_lines import Arguments
from enginekeeper.toolchains.containers.description import Container, Runtime, container_of
from enginekeeper.toolchains.containers.kubernetes import job_manifest
from enginekeeper.toolchains.processes import Command
from enginekeeper.toolchains.runner import LIFELINE, STEPS, Launcher, StepRun, step_settings

IN_CONTAINER = "ENGINEKEEPER_STEP_CONTAINER"
"""Tells a step that its toolchain's programs are on the PATH, as in NVIDIA's images."""

_CLIENTS_SEE = (
    "PATH", "HOME", "USER", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST",
    "DOCKER_CONTEXT", "DOCKER_CONFIG", "CONTAINER_HOST", "KUBECONFIG", "PYTHONPATH",
)  # fmt: skip
"""What docker, podman, apptainer and kubectl may see of this process's environment; what runs in a
container sees none of it."""

_REMOVED_WITHIN = 60.0  # seconds
_PATIENCE = 180.0
"""Seconds without a sign of life after which a job ends itself: three times what NFS clients keep
to themselves of a file's state by default (nfs(5), acregmax)."""

_WATCHED = "_watched.py"


def launcher_of(name: str, settings: Settings) -> Launcher | None:
    """Returns what starts the steps of a toolchain in a container; None where none is to."""
    container = container_of(name, settings)
    return None if container is None else ContainerLauncher(container, settings.home / "keys")


def runs_elsewhere(name: str, settings: Settings) -> bool:
    """Says whether the steps of a toolchain run on another host than this one, as a cluster's do.

    Of that host nothing is known here: neither its memory nor its driver.
    """
    container = container_of(name, settings)
    return container is not None and container.runtime is Runtime.KUBERNETES


def _open_nvml() -> Nvml:
    from enginekeeper.fleet.nvml import open_nvml  # noqa: PLC0415 - only where a GPU is chosen

    return open_nvml()


@dataclass
class ContainerLauncher:
    """Starts the steps of one toolchain in its image."""

    container: Container
    keys: Path
    """The folder that no container may see."""

    nvml: Callable[[], Nvml] = _open_nvml
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")
    patience: float = _PATIENCE
    """Seconds after which a job in a cluster ends itself when nobody waits for it any more."""

    _removals: dict[Path, Arguments] = field(default_factory=dict)

    def command(self, run: StepRun, script: Path, result: Path) -> Command:
        """Returns the command that runs a step in its container.

        Raises UnavailableError without the GPU that the job is for, InputError for what no
        container is given: the network, a path that cannot be mounted, keys.
        """
        if run.network:
            raise InputError(
                "a step that needs the network is not run in a container",
                where=f"{run.toolchain}: {run.step}",
                remedy=f"enginekeeper toolchain container {run.toolchain} --remove",
            )
        arguments, removal = self._started(run, self._box(run, script, result))
        if removal is not None:
            self._removals[run.directory] = removal
        return Command(
            arguments=arguments,
            environment=_client_environment(),
            directory=run.directory,
            log=run.place.log,
            timeout_seconds=run.timeout_seconds,
        )

    def clean_up(self, run: StepRun) -> None:
        """Removes what is left of a run's container, however the run has ended.

        Raises UnavailableError where that cannot be told: something may go on.
        """
        removal = self._removals.pop(run.directory, None)
        if removal is None:
            return
        try:
            done = subprocess.run(
                removal, env=_client_environment(), capture_output=True, text=True, check=False,
                timeout=_REMOVED_WITHIN,
            )  # fmt: skip
            said, gone = done.stderr.strip()[-300:], done.returncode == 0 or _is_gone(done.stderr)
        except (OSError, subprocess.TimeoutExpired) as error:
            said, gone = str(error)[:300], False
        if not gone:
            raise UnavailableError(
                "the container of a step could not be removed, and may go on",
                where=str(run.place.log),
                actual=said,
                remedy=" ".join(removal),
            )

    def _box(self, run: StepRun, script: Path, result: Path) -> Box:
        directory = run.directory.absolute()
        gpu = run.job.get("gpu")
        by_label = self.container.runtime is Runtime.KUBERNETES
        words: tuple[str, ...] = (str(script.absolute()),)
        if by_label:
            script = _copied(script, directory / "steps")
            alive = directory / kubernetes_run.ALIVE
            watched = script.with_name(_WATCHED)
            words = (str(watched), str(alive), f"{self.patience:g}", str(script))
        command = ("-s", "-E", "-B", "-u", *words, str(directory / "job.json"))
        return Box(
            name=f"enginekeeper-{run.step.replace('_', '-')}-{uuid.uuid4().hex[:12]}",
            image=self.container.image,
            command=(self.container.python, *command, str(directory / result.name)),
            environment={
                **step_settings(network=False),
                **({} if by_label else {LIFELINE: "stdin"}),
                IN_CONTAINER: "1",
                "HOME": "/tmp",  # noqa: S108 - the container's own, and gone with it
            },
            directory=directory,
            mounts=mounts_of(run.job, own=directory, code=script.parent, forbidden=self.keys),
            user=self.user,
            gpus=() if gpu is None or by_label else chosen_gpus(gpu, _ranks(run.job), self.nvml()),
        )

    def _started(self, run: StepRun, box: Box) -> tuple[Arguments, Arguments | None]:
        match self.container.runtime:
            case Runtime.DOCKER:
                return command_lines.docker(box)
            case Runtime.PODMAN:
                return command_lines.podman(box)
            case Runtime.APPTAINER:
                return command_lines.apptainer(box)
            case Runtime.KUBERNETES:
                return self._as_job(run, box)

    def _as_job(self, run: StepRun, box: Box) -> tuple[Arguments, Arguments | None]:
        cluster, gpu = self.container.cluster, run.job.get("gpu")
        if cluster is None:
            raise AssertionError("a job without a cluster passed its description")
        product = None if gpu is None else str(gpu["product"])
        manifest = job_manifest(
            box, cluster, seconds=run.timeout_seconds, product=product, gpus=_ranks(run.job)
        )
        path = run.directory.absolute() / "manifest.json"
        path.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        return kubernetes_run.running(path, self.patience), kubernetes_run.removal(
            box.name, cluster.namespace
        )


def _ranks(job: Mapping[str, Any]) -> int:
    """Returns how many GPUs a step uses at once: one, unless its job has ranks that run."""
    return int(job.get("ranks", 1))


def chosen_gpus(asked: Mapping[str, str], count: int, nvml: Nvml) -> tuple[str, ...]:
    """Returns the UUIDs of the first GPUs of this host that are those a job is for.

    CUDA_VISIBLE_DEVICES, where it is set, leaves out the others. Raises UnavailableError.
    """
    found = nvml.scan().devices
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        uuids = [one.uuid for one in found]
        names = {_whole_name(name.strip(), uuids) for name in allowed.split(",")}
        found = tuple(one for one in found if str(one.index) in names or one.uuid in names)
    wanted = (asked["product"], asked["compute_capability"])
    fitting = [one.uuid for one in found if (one.product, one.compute_capability) == wanted]
    if len(fitting) >= count:
        return tuple(fitting[:count])
    raise UnavailableError(
        "there is no GPU of the kind the engine is for"
        if count == 1
        else f"there are not {count} GPUs of the kind the engine is for",
        actual=", ".join(f"{one.product} ({one.compute_capability})" for one in found) or "none",
        expected=f"{asked['product']}, compute capability {asked['compute_capability']}",
        remedy="build on a host that has one: an engine is bound to the GPU that built it",
    )


def _whole_name(name: str, uuids: list[str]) -> str:
    """Returns the UUID that a name is the beginning of, as CUDA takes one, if it is of one alone.

    The same as in `steps/_trtllm.py`, which can import nothing from here.
    """
    begun = [uuid for uuid in uuids if name and uuid.startswith(name)]
    return begun[0] if len(begun) == 1 else name


def _copied(script: Path, folder: Path) -> Path:
    """Copies a step with its siblings to where a cluster sees it, too; returns the copy."""
    folder.mkdir(exist_ok=True)
    for file in (*script.parent.glob("*.py"), STEPS / _WATCHED):
        shutil.copyfile(file, folder / file.name)
    return folder / script.name


def _client_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _CLIENTS_SEE if name in os.environ}


def _is_gone(said: str) -> bool:
    return "no such container" in said.lower()
