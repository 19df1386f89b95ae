"""Writes an engine to this node: through its gate, or for somebody to look at and not to run.

Rules:

- the gate of this node is asked before anything is written, as `pull` asks it;
- what is to be looked at passes no gate, is in the audit log before its first byte is here, and
  is no placement: `run-check` does not know it, and a sweep does not wait for it.
"""

from __future__ import annotations

from pathlib import Path

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.nodes import ThisNode
from enginekeeper.orchestration.placing import record
from registry.types import Engine


def fetch_here(bench: Bench, name: str, destination: Path) -> Engine:
    """Writes an engine that may run on this node; raises the gate's error for any other."""
    registry = bench.registry
    engine = registry.engine(name)
    decision = ThisNode(bench).gate(engine)
    decision.require_open(remedy="nothing was fetched; only to look at it: --to-inspect")
    registry.fetch_engine(engine.digest, destination)
    record(bench, engine.digest, destination)
    return engine


def fetch_to_inspect(bench: Bench, name: str, destination: Path) -> Engine:
    """Writes an engine whatever the gate says, verified; the audit log names who did."""
    registry = bench.registry
    engine = registry.engine(name)
    registry.verify_engine(engine)
    details = {"node": bench.node, "path": str(destination.resolve())}
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.note("engine inspect", engine.digest, details)
    registry.fetch_engine(engine.digest, destination)
    return engine
