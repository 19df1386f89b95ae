"""What keeps the GPU Operator's driver upgrades off held nodes: one label, set by kubectl.

The operator's upgrade controller leaves a node alone that has the label
`nvidia.com/gpu-driver-upgrade.skip=true`; it parks in the state `upgrade-required` (label
`nvidia.com/gpu-driver-upgrade-state`) until the label is gone: GPU Operator documentation, GPU
driver upgrades; NVIDIA/k8s-operator-libs, pkg/upgrade/consts.go.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.rollout.following import GONE
from registry.waves.types import Wave

SKIP = "nvidia.com/gpu-driver-upgrade.skip"

_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_TOGETHER = 200
"""Nodes that one command names: far below the longest command line."""
_PATIENCE = 120.0


def label_commands(wave: Wave, kubectl: str = "kubectl") -> list[list[str]]:
    """Returns the commands that hold and release a wave's nodes, as argument lists.

    Run again they change nothing. On the way back only nodes that may go back are released.
    Raises InputError for a node that no Kubernetes node can be.
    """
    members = [one for one in wave.nodes if GONE not in one.reasons]
    held = [one.name for one in members if not wave.frees(one)]
    free = [one.name for one in members if wave.frees(one)]
    return [
        [kubectl, "label", "nodes", *names, label, "--overwrite"]
        for some, label in ((held, f"{SKIP}=true"), (free, f"{SKIP}-"))
        for names in _portions(some)
    ]


def apply(commands: list[list[str]]) -> None:
    """Runs commands one after the other; raises UnavailableError for the first that fails."""
    for command in commands:
        if shutil.which(command[0]) is None:
            raise UnavailableError(
                "kubectl is not installed here", where=command[0],
                remedy="run the printed commands where it is: leave out --apply",
            )  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"kubectl did not run: {error}"[:300]) from error
        if done.returncode:
            raise UnavailableError(
                "kubectl refused", where=" ".join(command[:4]),
                actual=done.stderr.strip()[-500:] or f"exit status {done.returncode}",
                remedy="labels that were set stay; run it again",
            )  # fmt: skip


def _portions(names: list[str]) -> Iterator[list[str]]:
    for name in names:
        if not _NODE.fullmatch(name):
            raise InputError(
                "no Kubernetes node can have this name", actual=ascii(name)[:100],
                expected="lower-case letters, digits, - and .",
            )  # fmt: skip
    for start in range(0, len(names), _TOGETHER):
        yield names[start : start + _TOGETHER]
