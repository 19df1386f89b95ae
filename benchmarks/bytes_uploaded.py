"""How many bytes publishing sends, counted at the store's wire.

    python benchmarks/bytes_uploaded.py [MEGABYTES]

Publishes a checkpoint and engines built from it into SeaweedFS through a relay that counts every
byte that goes up, request headers and signatures included. The engines have the shape of a real
one (the embedded builder's fp8 engine of SmolLM2-135M): one file of weights that all share, here
of MEGABYTES (default 220, as it is there), and graphs of their own in proportion. Beside it, from
the server's own listing: what the bucket grew by. Exit 1 if a promise is not kept: the second
variant at most 5 % of the first, a rebuild that changed nothing no file at all.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers and signers are the tests'

from registry.attestations import BuildRecord, provenance, sign
from registry.blobs.s3 import S3BlobStore
from registry.blobs.select import open_store
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.publishing import CheckpointPublication, EnginePublication
from registry.trust import Purpose
from registry.types import EngineNames
from registry.verification import build_parameters
from tests.factories.registry import WEIGHTS, Workbench, make_workbench
from tests.fakes import servers
from tests.fakes.relay import Relay, relay

PROMISED = 0.05
"""A second variant's share of the first one's bytes."""
WEIGHTS_SIZE = 219_544_320
OWN = {
    "config.json": 1_061,
    "engine.json": 3_492,
    "graphs/head.pt2": 1_559_003,
    "graphs/decode.pt2": 1_900_379,
    "graphs/prefill.pt2": 1_906_907,
}
"""Bytes of the weights that engines share, and of the files that are each one's own."""


@dataclass(frozen=True)
class Row:
    """What one publication cost."""

    what: str
    sent: int
    """Bytes that went up, all of them."""
    stored: int
    """Bytes that the bucket grew by."""
    objects: int
    """Objects that the bucket grew by."""


@dataclass
class Scale:
    """Weighs publications: the bytes on the wire, and the growth of the bucket."""

    relay: Relay
    store: S3BlobStore
    rows: list[Row] = field(default_factory=list)

    def weigh(self, what: str, publish: Callable[[], object]) -> None:
        """Publishes and notes what it cost."""
        sent, before = self.relay.sent, self._bucket()
        publish()
        after = self._bucket()
        row = Row(what, self.relay.sent - sent, sum(after) - sum(before), len(after) - len(before))
        self.rows.append(row)

    def _bucket(self) -> list[int]:
        root = self.store._root  # noqa: SLF001 - to ask the server, not the store
        pages = root.client.get_paginator("list_objects_v2").paginate(
            Bucket=root.bucket, Prefix=root.key
        )
        return [one["Size"] for page in pages for one in page.get("Contents", [])]


@dataclass(frozen=True)
class Factory:
    """Makes checkpoints and engines around one file of weights."""

    bench: Workbench
    weights: Path

    def checkpoint(self) -> CheckpointPublication:
        """Returns the checkpoint that all engines are built from."""
        return CheckpointPublication(self._directory("checkpoint", seed=0), WEIGHTS, "fp8")

    def engine(self, target: str, driver: str, *, seed: int) -> EnginePublication:
        """Returns a signed engine; the seed stands for what the compiler made of the graphs."""
        key = EngineKey.of(
            builder="tensorrt_llm", weights=str(WEIGHTS), recipe="fp8", gpu_product=target,
            cuda_runtime="12.9", driver=driver,
        )  # fmt: skip
        directory = self._directory(f"{target}-{seed}", seed=seed)
        manifest = Manifest.of_directory(directory, "engine", key=key.digest())
        variant = f"benchmark.fp8.tp1.{target}"
        return self.signed(
            EnginePublication(directory, manifest, key, b"", WEIGHTS, "fp8", target, variant)
        )

    def signed(self, engine: EnginePublication) -> EnginePublication:
        """Returns the engine with the statement of a build of its own."""
        clock = self.bench.clock
        names = EngineNames("smollm2-135m", engine.recipe, engine.target, engine.variant)
        record = BuildRecord(
            "urn:benchmark:builder", "run", clock(), clock(),
            parameters=build_parameters(names, engine.model),
        )  # fmt: skip
        statement = provenance(engine.manifest, engine.key, record)
        signer = self.bench.signers.of(Purpose.BUILD, simulated=False)
        return replace(engine, provenance=sign(statement, signer))

    def _directory(self, name: str, *, seed: int) -> Path:
        directory = self.bench.directory / name
        (directory / "graphs").mkdir(parents=True)
        os.link(self.weights, directory / "rank0.safetensors")
        share = self.weights.stat().st_size / WEIGHTS_SIZE
        for number, (file, size) in enumerate(OWN.items()):
            data = random.Random(1000 * seed + number).randbytes(round(share * size))
            (directory / file).write_bytes(data)
        return directory


def measure(server: servers.S3Server, directory: Path, megabytes: int) -> list[Row]:
    """Publishes what the owner of a fleet does, one after the other; returns what each cost."""
    weights = directory / "weights"
    with weights.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    with relay(server.endpoint) as counting:
        behind = servers.S3Server(counting.endpoint, server.bucket)
        store = open_store(behind.url(f"bytes/{uuid.uuid4().hex}"))
        assert isinstance(store, S3BlobStore)  # noqa: S101 - for the type checker
        store.put_document("ready.json", b"{}")  # the probe is over
        bench = make_workbench(directory / "registry", store=store)
        factory, publish = Factory(bench, weights), bench.registry.publish_engine
        first = factory.engine("h100-sxm", "580.95.05", seed=1)
        checkpoint = factory.checkpoint()
        scale = Scale(counting, store)
        scale.weigh("checkpoint", lambda: bench.registry.publish_checkpoint(checkpoint))
        scale.weigh("first variant", lambda: publish(first))
        second = factory.engine("l40s", "580.95.05", seed=2)
        scale.weigh("second variant, for another GPU", lambda: publish(second))
        rebuilt = factory.engine("h100-sxm", "590.48.01", seed=3)
        scale.weigh("rebuild after a driver change, all graphs new", lambda: publish(rebuilt))
        again = factory.signed(first)
        scale.weigh("rebuild that changed nothing, signed anew", lambda: publish(again))
        scale.weigh("the same publication again", lambda: publish(first))
        bench.registry.catalogue.close()
    return scale.rows


def main() -> int:
    """Prints the table and says whether the promises hold."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 220
    keys = {"AWS_ACCESS_KEY_ID": servers.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": servers.SECRET_KEY}
    os.environ.update(keys)
    with servers.seaweedfs() as server, tempfile.TemporaryDirectory() as scratch:
        rows = measure(server, Path(scratch), megabytes)
    first = rows[0].sent + rows[1].sent
    print("| published | bytes sent | of the first | bucket grew by | new objects |")
    print("|---|--:|--:|--:|--:|")
    for row in rows:
        share = f"{100 * row.sent / first:.3f} %"
        print(f"| {row.what} | {row.sent:,} | {share} | {row.stored:,} | {row.objects} |")
    second, same = rows[2], rows[5]
    return 0 if second.sent <= PROMISED * first and same.objects == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
