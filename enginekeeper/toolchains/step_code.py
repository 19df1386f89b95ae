"""Which code a step is made of, so that what it made is made again when that code changes.

A step may import its siblings: they are found by reading its import statements, not by running
it, so that a change in a sibling which a step does not import leaves its products alone.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from enginekeeper.errors import MissingError
from enginekeeper.toolchains.runner import STEPS
from registry.digests import Digest, digest_document, digest_file

SCHEME = "ek-steps-v1"


def step_files(step: str, folder: Path = STEPS) -> list[Path]:
    """Returns a step's script and every sibling that it imports, directly or through another."""
    found: dict[str, Path] = {}
    waiting = [step]
    while waiting:
        name = waiting.pop()
        path = folder / f"{name}.py"
        if name in found:
            continue
        if not path.is_file():
            raise MissingError(f"there is no step called {name}", where=str(folder))
        found[name] = path
        imported = _imported(path.read_bytes())
        waiting += sorted(module for module in imported if (folder / f"{module}.py").is_file())
    return [found[name] for name in sorted(found)]


def step_digest(step: str, folder: Path = STEPS) -> Digest:
    """Names the code of a step."""
    files = step_files(step, folder)
    return digest_document({path.name: str(digest_file(path)) for path in files}, SCHEME)


@cache
def _imported(source: bytes) -> frozenset[str]:
    """Returns the first part of every module that is imported anywhere in a file's text.

    Steps share most of their siblings, and parsing is what takes the time.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return frozenset(names)
