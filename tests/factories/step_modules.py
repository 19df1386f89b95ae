"""Modules of step scripts that need no toolchain, imported as a step imports them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from enginekeeper.toolchains.runner import STEPS


def step_module(name: str) -> ModuleType:
    """Imports a sibling module of the step scripts by its bare name."""
    if str(STEPS) not in sys.path:
        sys.path.append(str(STEPS))
    return importlib.import_module(name)
