"""A toolchain of a TensorRT-LLM release whose tool is the double, on a host with made-up GPUs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.specs.gpus import GpuProduct

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class FakeToolchain:
    """Where the double is, and what it is told."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter that a step is started with; the tool lies beside it."""
        return self.folder / "python"

    def tell(self, **settings: Any) -> None:  # noqa: ANN401 - what the double reads
        """Tells the double what GPU it builds on, and how to end."""
        (self.folder / "double.json").write_text(json.dumps(settings))


def fake_toolchain(folder: Path, version: str, *gpus: GpuProduct) -> FakeToolchain:
    """Puts interpreter, tool and nvidia-smi of a release into a folder."""
    folder.mkdir(parents=True)
    settings = folder / "double.json"
    (folder / "python").symlink_to(sys.executable)
    _script(
        folder / "trtllm-build",
        f'export PYTHONPATH="{ROOT}"; '
        f'exec "{sys.executable}" -B -m enginekeeper.building.simulated.build '
        f'{version} "{settings}" "$@"',
    )
    rows = "\n".join(
        f"{index}, GPU-{index}, {gpu.product}, {gpu.compute_capability}"
        for index, gpu in enumerate(gpus)
    )
    _script(folder / "nvidia-smi", f"cat <<'END'\n{rows}\nEND")
    return FakeToolchain(folder)


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
