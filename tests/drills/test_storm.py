"""Two hundred publishers of twenty keys at once, on PostgreSQL and SeaweedFS."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.digests import Digest
from registry.errors import ConflictError
from registry.publishing import EnginePublication
from registry.service import Registry
from tests.drills.ground import CHANNEL, MODEL, Ground, make_ground
from tests.drills.ledger import Ledger
from tests.factories.registry import CPU
from tests.fakes import servers
from tests.fakes.servers import S3Server

PUBLISHERS, KEYS, CONTENTS = 200, 20, 5
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


def start(ground: Ground, publication: EnginePublication, begin: float, log: Path) -> int:
    """Starts one publisher: a process with a catalogue and a store of its own."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        registry = ground.opened()
        time.sleep(max(0.0, begin - time.time()))
        publish(ground, publication, registry)
        status = 0
    except BaseException as error:  # noqa: BLE001 - the outermost frame of a process
        with log.open("a") as file:
            file.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)
    return pid


def test_two_hundred_publishers_of_twenty_keys(
    crowded: Ground, ledger: Ledger, tmp_path: Path
) -> None:
    drill = ledger.drill(
        f"{PUBLISHERS} publishers of {KEYS} keys at once",
        f"{PUBLISHERS} processes on PostgreSQL and SeaweedFS: each publishes, records a verdict "
        f"and moves its key's channel; {CONTENTS} contents of each key, each by two",
    )
    made = publications(crowded)
    log, begin = tmp_path / "errors", time.time() + 5
    children = [start(crowded, one, begin, log) for one in made]
    statuses = Counter(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
    seconds = time.time() - begin
    assert not log.exists(), log.read_text()
    assert statuses == {0: PUBLISHERS}
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
