"""What `fleet.py` measures over HTTP: a real `ek serve`, its PostgreSQL, and this load generator.

    python benchmarks/fleet_http.py PORT    # the peer: an application that reads and answers alone

Requests are made before the clock runs, and sent over connections that stay open, as by a proxy in
front of the service; each connection waits for its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server is the tests'

from fleet_world import Figure, World

from enginekeeper.fleet.wire import HEARTBEAT_PATH, INVENTORY_PATH
from enginekeeper.web.serving import serve
from tests.fakes import servers

CONNECTIONS = 128
TICKS = os.sysconf("SC_CLK_TCK")
BEATS, INVENTORIES = 1667, 1000
_BATCH = 500
_ANSWER = b'{"inventory":"known","desired":"ek-desired-v1:%s","next_seconds":60}' % (b"0" * 64)


@dataclass
class Load:
    """What was sent, and what it took."""

    sent: int
    refused: int
    seconds: float
    generator: float
    """Processor seconds of this process."""
    server: float
    postgresql: float

    @property
    def said(self) -> str:
        """In words, with the processors' shares."""
        shares = (self.server, self.postgresql, self.generator)
        server, database, own = (f"{one / self.seconds:.0%}" for one in shares)
        return (
            f"{self.sent / self.seconds:,.0f}/s; server {server}, PostgreSQL {database}, "
            f"load generator {own} of a core"
        )


def http(world: World, seconds: float) -> Iterator[Figure]:
    """Measures heartbeats without news, and changed inventories, over HTTP."""
    world.learn()
    beats = [_beat(world, name) for name in itertools.islice(itertools.cycle(world.names), 2000)]
    inventory = _inventory(world, 0)
    bare = {
        name: _bare(one, min(seconds, 5.0))
        for name, one in (("heartbeat", beats[0]), ("inventory", inventory))
    }
    with _served(world) as server:
        asyncio.run(_all(server.port, iter(beats), time.perf_counter() + 60))  # desired states
        turn = itertools.cycle(world.names)
        yield _figure(
            world, server, lambda: _beat(world, next(turn)), seconds,
            ("heartbeats over HTTP", BEATS, bare["heartbeat"]),
        )  # fmt: skip
        numbers = itertools.cycle(reversed(range(len(world.names))))
        yield _figure(
            world, server, lambda: _inventory(world, next(numbers)), seconds,
            ("changed inventories over HTTP", INVENTORIES, bare["inventory"]),
        )  # fmt: skip


def restart(world: World, seconds: float) -> Iterator[Figure]:
    """Kills the service under load, starts it, and lets every agent speak: what was lost?

    Lost is an inventory that was answered and is asked for again.
    """
    world.learn()
    with _served(world) as server:
        taken = asyncio.run(_until_killed(world, server, min(seconds, 5.0)))
    world.states.update({name: world.told[name] for name in taken})
    unanswered = world.told.keys() - taken
    with _served(world) as server:
        beats = [_beat(world, name) for name in world.names if name not in unanswered]
        load = _measured(world, server, beats, 3600)
    figure = (
        f"{load.sent:,} spoke in {load.seconds:.0f} s, {load.refused} of {len(taken):,} lost; "
        f"{load.said}"
    )
    yield Figure(
        "kill -9, start, every agent speaks", load.refused, "lost", figure, "none lost",
        load.refused == 0 and load.sent == len(beats),
    )  # fmt: skip


async def _until_killed(world: World, server: servers.FleetServer, seconds: float) -> set[str]:
    """Sends changed inventories until the service is killed; returns whose were answered."""
    world.told.clear()
    taken: set[str] = set()
    numbers = iter(range(len(world.names)))

    async def speak() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for number in numbers:
            request = _inventory(world, number)
            writer.write(request)
            try:
                if not (await _answered(reader))[0].startswith(b"HTTP/1.1 200"):
                    raise AssertionError(server.said()[-2000:])
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # it is dead
            taken.add(world.names[number])

    speaking = [asyncio.create_task(speak()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(seconds)
    server.process.kill()
    await asyncio.gather(*speaking)
    return taken


def _figure(
    world: World,
    server: servers.FleetServer,
    make: Callable[[], bytes],
    seconds: float,
    against: tuple[str, int, float],
) -> Figure:
    """Measures requests of a kind; `against` is their name, what is promised, and the peer."""
    name, promised, bare = against
    warm = [make() for _ in range(_BATCH)]
    tried = _measured(world, server, warm, 60)
    # as many as are surely enough for the time, half of which is the machine's to be faster
    many = int(1.5 * seconds * tried.sent / tried.seconds) + _BATCH
    load = _measured(world, server, [make() for _ in range(many)], seconds)
    rate = load.sent / load.seconds
    if load.refused:
        raise AssertionError(f"{name}: {load.refused} refused\n{server.said()[-2000:]}")
    return Figure(
        name, rate, "/s", load.said, f"{promised:,}/s", rate >= promised,
        f"an application that reads and answers alone, {bare:,.0f}/s", bare / rate,
    )  # fmt: skip


def _measured(
    world: World, server: servers.FleetServer, requests: list[bytes], seconds: float
) -> Load:
    with world.bare() as bare:
        postmaster = _parent(bare.info.backend_pid)
        before = _ticks(server.process.pid), _family(postmaster), time.process_time()
        start = time.perf_counter()
        sent, refused = asyncio.run(_all(server.port, iter(requests), start + seconds))
        passed = time.perf_counter() - start
        own = time.process_time() - before[2]
        return Load(
            sent, refused, passed, own,
            _ticks(server.process.pid) - before[0], _family(postmaster) - before[1],
        )  # fmt: skip


@contextmanager
def _served(world: World) -> Iterator[servers.FleetServer]:
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "ENGINEKEEPER_HOME": home, "ENGINEKEEPER_CACHE": home,
            "ENGINEKEEPER_CATALOGUE": world.url,
        }  # fmt: skip
        with servers.fleet_server(environment) as server:
            yield server


def _bare(request: bytes, seconds: float) -> float:
    """Returns the rate of the peer for a request that is sent again and again."""
    (port,) = servers.free_ports(1)
    process = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        asyncio.run(_until_there(port))
        start = time.perf_counter()
        sent, _ = asyncio.run(_all(port, itertools.repeat(request), start + seconds))
        return sent / (time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait()


async def _until_there(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise AssertionError("the peer did not start")


async def _all(port: int, requests: Iterator[bytes], until: float) -> tuple[int, int]:
    """Sends requests over all connections; returns how many, and those that were refused."""
    done = await asyncio.gather(*(_speak(port, requests, until) for _ in range(CONNECTIONS)))
    return sum(sent for sent, _ in done), sum(refused for _, refused in done)


async def _speak(port: int, requests: Iterator[bytes], until: float) -> tuple[int, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = refused = 0
    for request in requests:
        writer.write(request)
        head, content = await _answered(reader)
        sent += 1
        refused += not head.startswith(b"HTTP/1.1 200") or b'"wanted"' in content
        if time.perf_counter() > until:
            break
    writer.close()
    return sent, refused


async def _answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    at = head.lower().index(b"content-length:") + len(b"content-length:")
    return head, await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))


def _beat(world: World, name: str) -> bytes:
    return _request("POST", HEARTBEAT_PATH, world.tokens[name], world.beat(name))


def _inventory(world: World, number: int) -> bytes:
    name, body = world.changed(number)
    return _request("PUT", INVENTORY_PATH, world.tokens[name], body)


def _request(method: str, path: str, token: str, body: bytes) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _ticks(pid: int) -> float:
    """Returns the processor seconds of a process."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def _family(parent: int) -> float:
    """Returns the processor seconds of a process, of its children, and of those that ended."""
    total = 0.0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = _fields(int(place.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            total += (int(fields[11]) + int(fields[12])) / TICKS
        elif int(place.name) == parent:
            total += sum(map(int, fields[11:15])) / TICKS
    return total


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


async def _application(
    scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]
) -> None:
    """Reads a body and answers: the least that an application can do."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    serve(_application, "127.0.0.1", int(sys.argv[1]))  # type: ignore[arg-type]
