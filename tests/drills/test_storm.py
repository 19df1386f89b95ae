"""Two hundred publishers of twenty keys at once, on PostgreSQL and SeaweedFS."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from registry.blobs.select import open_store
from registry.digests import Digest
from registry.errors import ConflictError, DiagnosedError
from registry.publishing import EnginePublication
from registry.service import Registry
from tests.drills.ground import CHANNEL, MODEL, Ground, make_ground
from tests.drills.ledger import Ledger
from tests.factories.registry import CPU
from tests.fakes import servers
from tests.fakes.servers import S3Server

PUBLISHERS, KEYS, CONTENTS, PROCESSES = 200, 20, 5, 4
"""Each content of a key is published by two of its ten publishers."""

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def crowded(seaweedfs_server: S3Server, tmp_path: Path) -> Iterator[Ground]:
    """With room for one connection for each publisher."""
    store = seaweedfs_server.url(f"drills/{uuid.uuid4().hex}")
    with (
        servers.postgresql(connections=PUBLISHERS + 50) as server,
        servers.database(server, "storm") as catalogue,
        make_ground(tmp_path / "bench", catalogue, store) as ground,
    ):
        yield ground


def publications(ground: Ground) -> list[EnginePublication]:
    made = []
    for number in range(PUBLISHERS):
        key, content = number % KEYS, number // KEYS % CONTENTS
        made.append(
            ground.publication(f"{key} {content}".encode(), build_config=f"sha256:{key:064d}")
        )
    return made


def publish(ground: Ground, publication: EnginePublication, registry: Registry) -> None:
    """Publishes, judges and puts the engine into its key's channel, as one of many."""
    engine = registry.publish_engine(publication)
    document, envelope = ground.bench.verdict_on(engine)
    verdict = registry.record_verdict(engine.digest, document, envelope)
    ground.told(engine.digest, "verdict", verdict.digest)
    channel = f"{CHANNEL}-{int(engine.key.hard['build_config'][-4:])}"
    while True:
        try:
            registry.set_channel(channel, engine.digest, CPU, actor=str(os.getpid()))
        except ConflictError as error:
            if "moved by somebody else" not in error.what:
                raise
            continue  # look again and decide again
        ground.told(engine.digest, "move", channel)
        return


@dataclass(frozen=True)
class Gate:
    """Lets processes begin at one moment: each says that it is ready, and waits for the end."""

    ready: tuple[int, int] = field(default_factory=os.pipe)
    begin: tuple[int, int] = field(default_factory=os.pipe)

    def wait(self) -> None:
        os.close(self.begin[1])
        os.write(self.ready[1], b".")
        os.read(self.begin[0], 1)

    def open(self, processes: int) -> None:
        waiting = processes
        while waiting:
            waiting -= len(os.read(self.ready[0], waiting))
        os.close(self.begin[1])


def publish_all(ground: Ground, publications: list[EnginePublication], gate: Gate) -> list[str]:
    """Publishes from one moment on, each in a thread with a catalogue of its own."""
    store = open_store(ground.store_url)
    registries = [ground.opened(store) for _ in publications]
    gate.wait()

    def one(publication: EnginePublication, registry: Registry) -> str | None:
        try:
            publish(ground, publication, registry)
        except DiagnosedError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            registry.catalogue.close()
        return None

    with ThreadPoolExecutor(len(publications)) as pool:
        return [said for said in pool.map(one, publications, registries) if said is not None]


def start(ground: Ground, publications: list[EnginePublication], gate: Gate, log: Path) -> int:
    """Starts a process with some of the publishers; what they say goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        errors = publish_all(ground, publications, gate)
        log.write_text("\n".join(errors))
        status = 0 if not errors else 2
    finally:
        os._exit(status)
    return pid


def test_two_hundred_publishers_of_twenty_keys(
    crowded: Ground, ledger: Ledger, tmp_path: Path
) -> None:
    drill = ledger.drill(
        f"{PUBLISHERS} publishers of {KEYS} keys at once",
        f"on PostgreSQL and SeaweedFS, {PROCESSES} processes of {PUBLISHERS // PROCESSES} threads, "
        "each with a connection of its own: publishes, records a verdict, moves its key's channel; "
        f"{CONTENTS} contents of each key, each by two",
    )
    made, gate = publications(crowded), Gate()
    logs = [tmp_path / f"said-{number}" for number in range(PROCESSES)]
    children = [
        start(crowded, made[number::PROCESSES], gate, log) for number, log in enumerate(logs)
    ]
    gate.open(PROCESSES)
    begin = time.monotonic()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    seconds = time.monotonic() - begin
    assert [log.read_text() for log in logs if log.exists() and log.read_text()] == []
    assert statuses == [0] * PROCESSES
    for one in made:
        crowded.acknowledged[one.manifest.digest] = one.manifest
        crowded.passed.add(one.manifest.digest)
    drill.ran(crowded.look(), "at the end")
    check_generations(crowded, made)
    print(f"{PUBLISHERS} publishers: {seconds:.1f} s")  # noqa: T201 - pytest -s shows it


def check_generations(ground: Ground, made: list[EnginePublication]) -> None:
    """Every content is there once; each key's channel has one engine, its history no fork."""
    engines = {engine.digest: engine for engine in ground.registry.engines()}
    assert set(engines) == {one.manifest.digest for one in made}
    assert len(engines) == KEYS * CONTENTS
    current: dict[Digest, Digest] = {}
    for position in ground.registry.channels(MODEL):
        key = engines[position.engine].key.digest()
        assert key not in current
        current[key] = position.engine
        history = ground.registry.channel_history(position.channel, MODEL)
        assert history[0].engine == position.engine
        befores = [move.previous for move in history]
        assert befores == [*(move.engine for move in history[1:]), None]
    assert len(current) == KEYS
