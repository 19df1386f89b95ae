"""Runs commands as processes of their own, in an environment that tests choose."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def ek(environment: Mapping[str, str], *arguments: object) -> tuple[int, Any, str]:
    """Returns exit code, JSON and stderr of a command; there is never a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "enginekeeper", *map(str, arguments), "--json"],
        env=dict(environment), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout or "null"), done.stderr
