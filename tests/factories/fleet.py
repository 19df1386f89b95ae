"""Makes reports of nodes that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import InventoryMessage
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


def join(
    catalogue: Catalogue, *inventories: Inventory, now: datetime | None = None, **labels: str
) -> None:
    """Enrols nodes, unless they are, and takes their inventories as the service does."""
    moment = now or datetime.now(UTC)
    ingest = Ingest(catalogue, lambda: moment)
    for one in inventories:
        token = make_token(one.node)
        with catalogue.edit(actor="anna") as draft:
            if draft.fleet.known_node(one.node) is None:
                draft.fleet.enroll(
                    one.node, token_digest(token), simulated=one.simulated, labels=labels, at=moment
                )
            else:
                draft.fleet.renew(one.node, token_digest(token))
        ingest.load()
        message = InventoryMessage(one.node, one.boot_id, 1, one.as_dict())
        offered = ingest.offer(token, message.to_bytes())
        ingest.settle(offered, ingest.take([offered])[0])


def enrolled(catalogue: Catalogue, name: str = "gpu-1", **fields: Any) -> Node:  # noqa: ANN401
    """Enrols a node."""
    base: dict[str, Any] = {"simulated": False, "labels": {}, "at": NOON}
    with catalogue.edit(actor="anna") as draft:
        return draft.fleet.enroll(name, TOKEN, **{**base, **fields})
