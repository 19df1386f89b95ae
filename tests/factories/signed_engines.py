"""Makes engines and verdicts that are really signed, without a registry around them."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.attestations import BuildRecord, VerdictClaim, provenance, sign, test_result
from registry.digests import canonical_json, digest_bytes
from registry.environments import Environment
from registry.keys import EngineKey
from registry.manifests import FileEntry, Manifest
from registry.trust import Purpose, Trust
from registry.types import Engine, EngineNames, Result, Verdict
from registry.verification import build_parameters
from tests.factories.registry import START, WEIGHTS, Signers


@dataclass(frozen=True)
class SignedEngines:
    """Makes engines and verdicts that one set of signers signs."""

    signers: Signers = field(default_factory=Signers)

    @property
    def trust(self) -> Trust:
        """Trusts the signers."""
        return self.signers.trust

    def engine(self, key: EngineKey, content: bytes = b"engine") -> Engine:
        """Returns a signed engine of a key."""
        manifest = Manifest("engine", (FileEntry("a", 1, digest_bytes(content)),), key.digest())
        names = EngineNames("m", "fp8", "h100-sxm", "m.fp8.tp1.h100-sxm")
        record = BuildRecord(
            "urn:test:builder", "run-1", START, START, parameters=build_parameters(names, WEIGHTS)
        )
        envelope = sign(
            provenance(manifest, key, record), self.signers.of(Purpose.BUILD, simulated=False)
        )
        return Engine(
            digest=manifest.digest, key=key, model=WEIGHTS, model_name=names.model,
            recipe=names.recipe, target=names.target, variant=names.variant, checkpoint=None,
            size=1, path="engines/m", provenance=envelope.decode(), simulated=False,
            recorded_at=START,
        )  # fmt: skip

    def verdict(self, engine: Engine, environment: Environment, result: Result) -> Verdict:
        """Returns a signed verdict on an engine."""
        document = digest_bytes(canonical_json({"result": str(result)}))
        claim = VerdictClaim(result, environment, document, START, summary=str(result))
        envelope = sign(
            test_result(engine.digest, claim), self.signers.of(Purpose.VERDICT, simulated=False)
        )
        return Verdict(
            digest=digest_bytes(envelope), engine=engine.digest, environment=environment,
            result=result, fidelity=None, quality=None, summary=str(result), document=document,
            path="v", envelope=envelope.decode(), simulated=False, issued_at=START,
            recorded_at=START,
        )  # fmt: skip
