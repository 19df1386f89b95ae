"""Makes reports of nodes that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.catalogue import Catalogue
from registry.digests import digest_bytes
from registry.fleet.types import Beat, Node, NodeDevice, NodeReport, PlacedEngine

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOKEN = "0" * 64


def minutes(count: float) -> datetime:
    """Returns a time so many minutes after noon."""
    return NOON + timedelta(minutes=count)


def engine_name(seed: object) -> str:
    """Returns the digest of an engine that the catalogue need not know."""
    return str(digest_bytes(str(seed).encode()))


def placed(seed: object, path: str = "/engines/m", **fields: Any) -> PlacedEngine:  # noqa: ANN401
    """Returns an engine on a node."""
    return PlacedEngine(engine_name(seed), path, **{"bytes": "verified", **fields})


def beat(node: Node, sequence: int, at: datetime = NOON, boot: str = "boot-1") -> Beat:
    """Returns a heartbeat that was taken."""
    return Beat(node.id, at, sequence, boot, (), 0)


def report(
    node: Node,
    sequence: int,
    engines: Sequence[PlacedEngine] = (),
    *,
    at: datetime = NOON,
    driver: str = "580.95.05",
    **fields: Any,  # noqa: ANN401 - of NodeReport
) -> NodeReport:
    """Returns a report of a node with two GPUs."""
    base: dict[str, Any] = {
        "state": engine_name((driver, sorted(map(str, engines)))),
        "profile": {"driver": driver, "labels": {"pool": "h100"}},
        "devices": tuple(
            NodeDevice(f"GPU-{node.name}-{at}", at, "NVIDIA H100 80GB HBM3", "9.0")
            for at in range(2)
        ),
        "document": b"x",
    }
    return NodeReport(
        beat=beat(node, sequence, at), driver=driver, engines=tuple(engines), **{**base, **fields}
    )


def enrolled(catalogue: Catalogue, name: str = "gpu-1", **fields: Any) -> Node:  # noqa: ANN401
    """Enrols a node."""
    base: dict[str, Any] = {"simulated": False, "labels": {}, "at": NOON}
    with catalogue.edit(actor="anna") as draft:
        return draft.fleet.enroll(name, TOKEN, **{**base, **fields})
