"""Checkpoints that are made here and run elsewhere: published, and remembered with their audits.

What was found lies in the work store, under everything that checkpoint and audits come from; it
counts only while the checkpoint is in the registry.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.stages import made_once, work_key
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.keys import EngineKey
from registry.types import Checkpoint

_KIND = "export"


@dataclass(frozen=True)
class Export:
    """A published checkpoint that nothing here can run, and what its audits said."""

    checkpoint: Checkpoint
    result: str | None
    """`fail` or `inconclusive`; None where the audits found nothing."""

    audits: str
    """The audits' results in words."""


def keep_export(bench: Bench, key: EngineKey, export: Export) -> None:
    """Remembers an export for the next plan, instead of an earlier one of the same key."""
    inputs = _inputs(bench, key)
    shutil.rmtree(bench.shop.work.path(_KIND, work_key(_KIND, inputs)), ignore_errors=True)
    found = {
        "checkpoint": str(export.checkpoint.digest),
        "result": export.result,
        "audits": export.audits,
    }

    def write(_directory: Path) -> dict[str, Any]:
        return found

    made_once(bench.shop, _KIND, inputs, write)


def find_export(bench: Bench, key: EngineKey) -> Export | None:
    """Returns the export of a key, if it is in the registry and would be audited as it was."""
    address = work_key(_KIND, _inputs(bench, key))
    if bench.shop.work.find(_KIND, address) is None:
        return None
    found = bench.shop.work.record(_KIND, address)
    try:
        checkpoint = bench.registry.checkpoint(Digest.parse(found["checkpoint"]))
    except RecordNotFoundError:
        return None  # another registry's: the work store may serve several
    return Export(checkpoint, found["result"], found["audits"])


def _inputs(bench: Bench, key: EngineKey) -> dict[str, str]:
    return {"key": str(key.digest()), "validator": str(bench.validator)}
