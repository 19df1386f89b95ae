"""The gate, asked of what lies beside an engine: for a node whose registry does not answer.

Rules:

- it is the same gate, with the same rules; only where verdicts, waivers and revocations come from
  differs, and all of them are signed;
- every statement in the evidence must verify: one that does not could be the verdict that closes
  the gate, so nothing is left out to open it;
- a quarantine is not signed and not in the evidence: only the registry knows of one;
- where the trust asks for a snapshot, the one that was kept counts until it expires.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from registry.environments import DriverScope, Environment
from registry.errors import IntegrityError
from registry.evidence import Evidence, require
from registry.freshness import Freshness, age_of
from registry.gate import Compatibility, GateDecision, GatePolicy, decide
from registry.publishing import signed_verdict, signed_waiver
from registry.revocations import found_beside
from registry.snapshots import read_snapshot
from registry.trust import Trust
from registry.waivers import ended_together


@dataclass(frozen=True)
class EvidenceGate:
    """Whom a node trusts, and what it knows without its registry."""

    trust: Trust
    compatibility: Compatibility
    driver_scope: DriverScope = DriverScope.EXACT
    snapshot: bytes | None = None
    """The signed snapshot that was kept when the engine was brought here."""

    def decide(self, evidence: Evidence, environment: Environment) -> GateDecision:
        """Decides whether an engine may run in an environment.

        Raises IntegrityError for evidence of which anything but a revocation does not verify; a
        revocation counts in any case.
        """
        engine = require(evidence, self.trust)
        now = self.trust.clock()
        verdicts = [
            signed_verdict(engine, one.document, one.envelope.encode(), self.trust, now)
            for one in reversed(evidence.judgements)  # as the registry has them: newest first
        ]
        waivers = ended_together(
            replace(
                signed_waiver(engine, one.envelope.encode(), self.trust, now), ending=one.ending
            )
            for one in evidence.permissions
        )
        freshness = self._freshness()
        policy = GatePolicy(
            self.trust if freshness is None else freshness.trusting(self.trust),
            self.compatibility, self.driver_scope, waivers=tuple(waivers), freshness=freshness,
        )  # fmt: skip
        standing = [
            found_beside(engine, one.encode(), self.trust, now) for one in evidence.revocations
        ]
        return decide(engine, verdicts, environment, policy, standing=standing)

    def _freshness(self) -> Freshness | None:
        if not self.trust.snapshot_required:
            return None
        if self.snapshot is None:
            return Freshness(None, "no snapshot of the registry was kept beside the engine")
        try:
            snapshot = read_snapshot(self.snapshot, self.trust)
        except IntegrityError as error:
            return Freshness(None, str(error))
        return age_of(snapshot, self.trust)
