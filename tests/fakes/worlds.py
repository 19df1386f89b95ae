"""A world of its own for whole builds: home, cache, fake toolchains, a spec; and what must hold.

`World.check` is what an interruption may never break: nothing of ours runs on, whatever the
catalogue names is in the store and verifies, and every product that counts is whole.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from enginekeeper.compatibility.deployment import refusal
from enginekeeper.settings import Settings
from enginekeeper.toolchains.installation import toolchains_folder
from registry.blobs.select import open_store
from registry.catalogue import open_catalogue
from registry.digests import digest_file
from registry.errors import CatalogueOutdatedError
from registry.service import Registry
from registry.signing import TRUST_FILE
from registry.trust import Trust
from registry.trust_file import read_trust
from tests.fakes.boundaries import name_of
from tests.fakes.toolchains import HOLD, install_fakes

VARIANT = "tiny.w8a16.tp1.cpu"
SPEC = f"""\
model: {{name: tiny, repo: tests/tiny, revision: {"a" * 40}}}
targets: [cpu]
recipes: [w8a16]
limits: {{max_batch_size: 1, max_input_len: 16, max_seq_len: 128, max_num_tokens: 128}}
"""


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended, what it said, and the boundaries it noted."""

    status: int
    out: str
    err: str
    notes: tuple[str, ...]

    @property
    def outcomes(self) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.out)


@dataclass
class Zygote:
    """A process that forks command lines; see `tests.fakes.zygote`."""

    requests: IO[str]
    answers: IO[str]

    def run(self, request: Mapping[str, Any]) -> int:
        self.requests.write(json.dumps(dict(request)) + "\n")
        self.requests.flush()
        status: int = json.loads(self.answers.readline())["status"]
        return status


def wait_for(started: subprocess.Popen[str], text: str) -> None:
    """Reads what a command line says until it says a text."""
    assert started.stderr is not None
    said = []
    for line in started.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


def eventually(ready: Callable[[], bool]) -> bool:
    """Waits up to a minute for what happens by and by, such as what Prefect writes down."""
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    return ready()


@contextmanager
def zygote(
    *, plain: bool, environment: Mapping[str, str] | None = None, under: Sequence[str] = ()
) -> Iterator[Zygote]:
    """Starts a zygote with the plain Prefect or the real one, under a command, and ends it."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [*under, sys.executable, "-m", "tests.fakes.zygote", "plain" if plain else "prefect"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, **(environment or {})},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        yield Zygote(process.stdin, process.stdout)
        process.stdin.close()


@dataclass
class World:
    """One home and cache, and a zygote that builds in them."""

    root: Path
    zygote: Zygote
    spec: str = SPEC
    environment: Mapping[str, str] = field(default_factory=dict)
    said: Path | None = None
    """Where what runs say is kept, if not in the world itself."""

    _runs: int = 0

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.settings = Settings.from_environment(self.environ)
        install_fakes(self.settings)
        (self.root / "spec.yaml").write_text(self.spec)

    def build(self, *arguments: str, **request: Any) -> Ended:  # noqa: ANN401 - JSON values
        """Runs `ek build --json`; `request` says where it is interrupted."""
        return self.run("build", str(self.root / "spec.yaml"), *arguments, **request)

    def rebuild(self, *arguments: str, **request: Any) -> Ended:  # noqa: ANN401 - JSON values
        """Runs `ek rebuild --json` with the world's spec."""
        spec = ("--spec", str(self.root / "spec.yaml"))
        return self.run("rebuild", *spec, *arguments, **request)

    def run(self, *arguments: str, **request: Any) -> Ended:  # noqa: ANN401 - JSON values
        """Runs a command with `--json`."""
        self._runs += 1
        out, err, notes = (
            (self.said or self.root / "said") / f"{self._runs}.{name}"
            for name in ("out", "err", "notes")
        )
        out.parent.mkdir(exist_ok=True)
        status = self.zygote.run(
            {
                "arguments": [*arguments, "--json"],
                "environment": self.environ,
                "root": str(self.root),
                "out": str(out),
                "err": str(err),
                "notes": str(notes),
                **request,
            }
        )
        noted = notes.read_text().splitlines() if notes.exists() else []
        return Ended(status, out.read_text(), err.read_text(), tuple(noted))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lets every step wait half-way until the block ends."""
        hold = toolchains_folder(self.settings) / HOLD
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    @contextmanager
    def start(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Starts `ek build` as a shell would, without a zygote; its stderr is a pipe.

        What still runs when the block ends, because a test failed in it, is killed.
        """
        with subprocess.Popen(
            [sys.executable, "-m", "enginekeeper", "build", f"{self.root}/spec.yaml", *arguments],
            env={**os.environ, **self.environ, **environment},
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def check(self) -> None:
        """Raises AssertionError unless everything that an interruption may not break holds."""
        assert self.survivors() == []
        self._check_registry()
        self._check_products()

    def survivors(self) -> list[str]:
        """Returns who still works in this world after a while in which it may end."""
        deadline = time.monotonic() + 10
        while (found := self.working()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def products(self) -> dict[str, int]:
        """Returns every complete product of a stage and what tells it from one made anew."""
        records = (self.root / "cache").glob("*/*/*/product.json")
        return {
            str(record.parent.relative_to(self.root)): record.stat().st_ino
            for record in records
            if not record.parent.name.endswith(".draft")
        }

    def tree(self) -> set[str]:
        """Returns every file below home and cache, without logs and toolchains, by pattern."""
        files = (path for path in self.root.glob("[hc]*/**/*") if path.is_file())
        names = (name_of(str(self.root), "", str(path)).strip() for path in files)
        left_out = ("home/runs/", "cache/toolchains/", "cache/models/logs/", "home/prefect")
        # an engine that an interruption left without a verdict is fetched and judged as it is
        return {n for n in names if not n.startswith(left_out) and "/fetched-" not in n}

    def age(self) -> None:
        """Makes what was left behind look two minutes old: the store spares what is young."""
        for path in (self.root / "home" / "store" / "tmp").glob("*"):
            os.utime(path, (time.time() - 120,) * 2)

    def registry(self) -> Registry | None:
        """Opens the registry as it is; None before there is a catalogue."""
        if not (self.settings.home / "catalogue.sqlite").exists():
            return None
        trust = self.settings.home / "keys" / TRUST_FILE
        return Registry(
            open_catalogue(self.settings.catalogue_url),
            open_store(self.settings.store_url),
            read_trust(trust) if trust.exists() else Trust(),  # nothing was signed yet
            refusal,
        )

    @property
    def environ(self) -> dict[str, str]:
        """Returns the environment variables that make a command line work in this world."""
        return {
            "ENGINEKEEPER_HOME": str(self.root / "home"),
            "ENGINEKEEPER_CACHE": str(self.root / "cache"),
            **self.environment,
        }

    def working(self) -> list[str]:
        """Returns the command lines of processes that work in this world."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(word.startswith(str(self.root)) for word in words):
                found.append(" ".join(words))
        return found

    def _check_registry(self) -> None:
        try:
            registry = self.registry()
        except CatalogueOutdatedError:
            return  # interrupted before its first migration: there is nothing in it
        if registry is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            for engine in registry.engines():
                registry.fetch_engine(engine.digest, Path(folder) / engine.digest.short)
                assert engine.checkpoint is not None
                registry.fetch_checkpoint(engine.checkpoint, Path(folder) / engine.variant)
                for verdict in registry.verdicts(engine.digest):
                    registry.verdict_document(verdict)
        registry.catalogue.close()
        for blob in (self.settings.home / "store" / "blobs").glob("*/*/*"):
            assert digest_file(blob).value == blob.name

    def _check_products(self) -> None:
        for product in self.products():
            record = json.loads((self.root / product / "product.json").read_text())
            assert record["key"].split(":")[1].startswith(Path(product).name)
