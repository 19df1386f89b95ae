"""Imports what a toolchain is for, inside it: an installation that imports is sound."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from _step import Refusal, main


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns every installed distribution with its version; refuses what does not belong."""
    installed = {
        distribution.name.lower(): distribution.version
        for distribution in importlib.metadata.distributions()
    }
    for name in job["absent"]:
        if name in installed:
            raise Refusal(
                "unwanted-distribution",
                "must not be installed in this toolchain",
                where=name,
                actual=installed[name],
                expected="absent",
            )
    for number, name in enumerate(job["imports"], start=1):
        print(f"progress {number}/{len(job['imports'])} importing {name}", flush=True)
        importlib.import_module(name)
    return {"installed": installed}


if __name__ == "__main__":
    main(run)
