"""Installations of the toolchains whose interpreter runs the fake steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import RECORD, installation_of

HOLD = "hold"
"""While a file of this name is there, beside the toolchains, steps wait half-way."""

STEPS = Path(__file__).with_name("toolchain_steps.py")


def install_fakes(settings: Settings) -> None:
    """Puts a fake beside every toolchain that a build on this CPU needs."""
    for name in ("inductor", "modelopt", "vllm-cpu"):
        toolchain = find_toolchain(name)
        place = installation_of(toolchain, lock_of(toolchain, settings), settings)
        place.python.parent.mkdir(parents=True)
        hold = place.path.parent / HOLD
        start = f'exec "{sys.executable}" -B "{STEPS}" "{hold}" "$@"'
        place.python.write_text(f"#!/bin/sh\n{start}\n")
        place.python.chmod(0o755)
        (place.path / RECORD).write_text(json.dumps({"schema": 1, "fake": True, "installed": {}}))
