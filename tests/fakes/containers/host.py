"""A host with doubles of container runtimes on its PATH."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = f"nvcr.io/nvidia/tensorrt-llm/release@sha256:{'a' * 64}"
_DOUBLE = Path(__file__).with_name("double.py")


@dataclass(frozen=True)
class ContainerHost:
    """Where the doubles lie, and what they noted."""

    programs: Path
    state: Path

    @property
    def run(self) -> dict[str, Any]:
        """What the one container was asked for."""
        (path,) = (it for it in self.state.glob("*.json") if it.name != "host.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def running(self) -> list[str]:
        """The containers that have not ended."""
        return [path.stem for path in self.state.glob("*.pid")]


def container_host(folder: Path, path: Path, *gpus: str) -> ContainerHost:
    """Installs the doubles; `path` has the programs of the image."""
    programs, state = folder / "programs", folder / "state"
    programs.mkdir(parents=True)
    state.mkdir()
    host = {"images": [IMAGE], "gpus": list(gpus), "path": str(path), "python": sys.executable}
    (state / "host.json").write_text(json.dumps(host))
    for tool in ("docker", "podman", "apptainer", "kubectl"):
        script = programs / tool
        script.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -B "{_DOUBLE}" {tool} "{state}" "$@"\n'
        )
        script.chmod(0o755)
    return ContainerHost(programs, state)
