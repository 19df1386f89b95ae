"""Two hundred publishers of twenty keys at once, on PostgreSQL and SeaweedFS."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
    registry.record_verdict(engine.digest, document, envelope)
    channel = f"{CHANNEL}-{int(engine.key.hard['build_config'][-4:])}"
    while True:
        try:
            registry.set_channel(channel, engine.digest, CPU, actor=str(os.getpid()))
        except ConflictError:  # moved by another one: look again and decide again
            continue
        return


def publish_all(ground: Ground, publications: list[EnginePublication], begin: float) -> list[str]:
    """Publishes at one moment, each in a thread with a catalogue and a store of its own."""
    registries = [ground.opened() for _ in publications]

    def one(publication: EnginePublication, registry: Registry) -> str | None:
        time.sleep(max(0.0, begin - time.time()))
        try:
            publish(ground, publication, registry)
        except DiagnosedError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            registry.catalogue.close()
        return None

    with ThreadPoolExecutor(len(publications)) as pool:
        return [said for said in pool.map(one, publications, registries) if said is not None]


def start(ground: Ground, publications: list[EnginePublication], begin: float, log: Path) -> int:
    """Starts a process with some of the publishers; what they say goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        errors = publish_all(ground, publications, begin)
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
        "each with a connection and a client of its own: publishes, records a verdict, moves its "
        f"key's channel; {CONTENTS} contents of each key, each by two",
    )
    made, begin = publications(crowded), time.time() + 10
    logs = [tmp_path / f"said-{number}" for number in range(PROCESSES)]
    children = [
        start(crowded, made[number::PROCESSES], begin, log) for number, log in enumerate(logs)
    ]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    seconds = time.time() - begin
    assert [log.read_text() for log in logs if log.exists() and log.read_text()] == []
    assert statuses == [0] * PROCESSES
    for one in made:
        crowded.acknowledged[one.manifest.digest] = one.manifest
        crowded.passed.add(one.manifest.digest)
    drill.ran(crowded.look(), "at the end")
    drill.runs = PUBLISHERS
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
