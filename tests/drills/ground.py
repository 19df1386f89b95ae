"""The ground that drills are run on: a registry, what it acknowledged, and a look at all of it.

`Ground.look` holds the registry against what must be true whatever happened: what was
acknowledged is there - engines byte for byte, verdicts, moves of channels -; what can be seen is
whole and verifies; and the gate is open for nothing but what a trusted validator passed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from registry.blobs.interface import BlobStore
from registry.blobs.select import open_store
from registry.catalogue import open_catalogue
from registry.digests import Digest
from registry.errors import DiagnosedError
from registry.manifests import Manifest, verify_directory
from registry.publishing import EnginePublication
from registry.service import Registry
from registry.types import Engine
from registry.verification import verify_verdict
from tests.drills.ledger import Findings
from tests.factories.registry import CPU, Workbench, make_workbench

CHANNEL, MODEL = "prod", "smollm2-135m"
_UNJUDGED = ("never-judged", "not-qualified-here")


@dataclass
class Ground:
    """A registry under drill."""

    bench: Workbench
    catalogue_url: str
    store_url: str
    journal: Path
    """Verdicts and moves that were acknowledged, a line each: also to processes that died since."""
    acknowledged: dict[Digest, Manifest] = field(default_factory=dict)
    """Engines that a publisher was told are published."""
    passed: set[Digest] = field(default_factory=set)
    """Engines that a trusted validator passed."""

    @property
    def registry(self) -> Registry:
        """The registry, as undisturbed as it gets."""
        return self.bench.registry

    def opened(self, store: BlobStore | None = None) -> Registry:
        """Opens the registry anew, as another process would."""
        return replace(
            self.registry,
            catalogue=open_catalogue(self.catalogue_url),
            store=store or open_store(self.store_url),
        )

    def publication(
        self,
        content: bytes | None = None,
        **fields: Any,  # noqa: ANN401 - key fields
    ) -> EnginePublication:
        """Returns a signed engine that was not published yet."""
        return self.bench.publication(content=content or os.urandom(64), **fields)

    def publish(self, publication: EnginePublication, registry: Registry | None = None) -> Engine:
        """Publishes, and remembers that it was acknowledged."""
        engine = (registry or self.registry).publish_engine(publication)
        self.acknowledged[engine.digest] = publication.manifest
        return engine

    def live(self, publication: EnginePublication, registry: Registry | None = None) -> Engine:
        """Publishes an engine, judges it and puts it into a channel: a whole life."""
        through = registry or self.registry
        engine = self.publish(publication, through)
        document, envelope = self.bench.verdict_on(engine)
        self.passed.add(engine.digest)
        verdict = through.record_verdict(engine.digest, document, envelope)
        self.told(engine.digest, "verdict", verdict.digest)
        through.set_channel(CHANNEL, engine.digest, CPU, actor="drill")
        self.told(engine.digest, "move", CHANNEL)
        return engine

    def told(self, engine: Digest, what: str, which: Digest | str) -> None:
        """Remembers, whatever becomes of this process, that something was acknowledged."""
        with self.journal.open("a") as journal:
            journal.write(f"{engine} {what} {which}\n")

    def look(self, only: Digest | None = None) -> Findings:
        """Looks at everything that can be seen, or at the bytes of one engine, with fresh eyes."""
        registry = self.opened()
        try:
            return _look(self, registry, only)
        finally:
            registry.catalogue.close()


def _look(ground: Ground, registry: Registry, only: Digest | None) -> Findings:
    lost: list[str] = []
    half: list[str] = []
    forged: list[str] = []
    engines = {engine.digest: engine for engine in registry.engines()}
    lost += [f"engine {one.short}" for one in ground.acknowledged if one not in engines]
    lost += _untold(ground, registry, [one for one in engines if only in (None, one)])
    for engine in (one for one in engines.values() if only in (None, one.digest)):
        known = engine.digest in ground.acknowledged
        for fault in (*_fetched(ground, registry, engine), *_judged(registry, engine)):
            (lost if known else half).append(fault)
        if registry.gate(engine.digest, CPU).is_open and engine.digest not in ground.passed:
            forged.append(f"the gate is open for {engine.digest.short}")
    forged += [
        f"channel {position.channel} has {position.engine.short}"
        for position in registry.channels()
        if position.engine not in ground.passed
    ]
    return Findings(tuple(lost), tuple(half), tuple(forged))


def _untold(ground: Ground, registry: Registry, engines: Collection[Digest]) -> Iterator[str]:
    """Yields verdicts and moves of engines that were acknowledged, and are not there."""
    lines = ground.journal.read_text().splitlines() if ground.journal.exists() else []
    for line in dict.fromkeys(lines):
        name, what, which = line.split(" ")
        engine = Digest.parse(name)
        if engine not in engines:
            continue
        if what == "move":
            moves = registry.channel_history(which, MODEL)
            there = engine in {one.engine for one in moves}
        else:
            there = which in {str(one.digest) for one in registry.verdicts(engine)}
            there = there and registry.gate(engine, CPU).rule not in _UNJUDGED
        if not there:
            yield f"{what} {which} of {engine.short}"


def _fetched(ground: Ground, registry: Registry, engine: Engine) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, _noted(f"engine {engine.digest.short}") as fault:
        registry.fetch_engine(engine.digest, Path(folder, "out"))
        manifest = ground.acknowledged.get(engine.digest)
        if manifest is not None:
            verify_directory(manifest, Path(folder, "out"))
    yield from fault


def _judged(registry: Registry, engine: Engine) -> Iterator[str]:
    for verdict in registry.verdicts(engine.digest):
        with _noted(f"verdict {verdict.digest.short}") as fault:
            verify_verdict(engine, verdict, registry.trust)
            registry.verdict_document(verdict)
        yield from fault


@contextmanager
def _noted(what: str) -> Iterator[list[str]]:
    """Gives a list that has the error, if the block raised one."""
    faults: list[str] = []
    try:
        yield faults
    except DiagnosedError as error:
        faults.append(f"{what}: {error}")


@contextmanager
def make_ground(directory: Path, catalogue_url: str, store_url: str) -> Iterator[Ground]:
    """Makes a ground on a new catalogue and an empty store."""
    bench = make_workbench(directory, url=catalogue_url, store=open_store(store_url))
    yield Ground(bench, catalogue_url, store_url, directory / "acknowledged")
    bench.registry.catalogue.close()
