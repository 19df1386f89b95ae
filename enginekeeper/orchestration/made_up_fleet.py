"""Brings a made-up fleet into the catalogue, as agents and the service would: enrolled, reported.

Every node is enrolled as simulated; the tokens are thrown away, so that nobody can speak for one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import islice

from enginekeeper.errors import InputError
from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import InventoryMessage
from enginekeeper.orchestration.bench import Bench

_TOGETHER = 200
"""Nodes that are committed at once."""


def engines_by_product(bench: Bench) -> dict[str, list[str]]:
    """Returns the digests of the catalogue's engines by the GPU they were built for."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for one in bench.registry.engines():
        product = one.key.hard.get("gpu_product")
        if isinstance(product, str):
            found[product].append(str(one.digest))
    return dict(found)


def join(bench: Bench, inventories: Iterable[Inventory]) -> int:
    """Enrols nodes as simulated and takes their inventories; returns how many.

    Raises InputError for a name that is enrolled already.
    """
    catalogue, ingest, done = bench.registry.catalogue, Ingest(bench.registry.catalogue), 0
    with catalogue.read() as view:
        taken_names = {one.name for one in view.fleet.nodes(retired=True)}
    found = iter(inventories)
    while some := list(islice(found, _TOGETHER)):
        tokens = {one.node: make_token(one.node) for one in some}
        if known := sorted(tokens.keys() & taken_names):
            raise InputError(
                "nodes of these names are enrolled", actual=", ".join(known[:3]),
                expected="names that nobody has", remedy="--prefix NAME",
            )  # fmt: skip
        digests = {name: token_digest(token) for name, token in tokens.items()}
        with catalogue.edit(actor=bench.registry.actor) as draft:
            draft.fleet.enroll_simulated(digests, labels={}, at=bench.registry.clock())
        ingest.load()
        messages = [InventoryMessage(one.node, one.boot_id, 1, one.as_dict()) for one in some]
        offered = [ingest.offer(tokens[one.node], one.to_bytes()) for one in messages]
        for one, taken in zip(offered, ingest.take(offered), strict=True):
            ingest.settle(one, taken)
        done += len(some)
    return done
