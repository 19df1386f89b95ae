"""The gate, asked of what lies beside an engine: for a node whose registry does not answer.

Rules:

- it is the same gate, with the same rules; only where verdicts, waivers and revocations come from
  differs, and all of them are signed;
- every statement in the evidence must verify: one that does not could be the verdict that closes
  the gate, so nothing is left out to open it;
- a pass counts only if it was both issued and recorded after whatever says otherwise, as in the
  registry; when it was recorded, the order of the statements says, which anybody can change: that
  can close the gate, never open it. Of two of one moment the one that is no pass counts;
- a quarantine is not in the evidence: only the registry knows of one;
- where the trust asks for a snapshot, the one that was kept counts until it expires, with what
  later ones revoked that this machine has seen;
- a registry that answers, and does not know the engine, keeps the gate closed: it may have been
  revoked and swept, and its evidence, written before, says nothing of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from registry.environments import DriverScope, Environment
from registry.errors import IntegrityError
from registry.evidence import Evidence, require
from registry.freshness import Freshness, SnapshotReader, age_of
from registry.gate import Compatibility, GateDecision, GatePolicy, decide
from registry.publishing import signed_verdict, signed_waiver
from registry.revocations import found_beside
from registry.service import Registry
from registry.snapshots import read_snapshot
from registry.statements import statements_of
from registry.trust import Purpose, Trust
from registry.types import Result, Verdict
from registry.waivers import ended_together


@dataclass(frozen=True)
class EvidenceGate:
    """Whom a node trusts, and what it knows without its registry."""

    trust: Trust
    compatibility: Compatibility
    driver_scope: DriverScope = DriverScope.EXACT
    snapshot: bytes | None = None
    """The signed snapshot that was kept when the engine was brought here."""

    reader: SnapshotReader | None = None
    """What this machine has seen of snapshots; None where it cannot have seen any."""

    store: str = ""
    """Whose snapshots: the address that what was seen is remembered by."""

    def decide(self, evidence: Evidence, environment: Environment) -> GateDecision:
        """Decides whether an engine may run in an environment.

        Raises IntegrityError for evidence of which anything does not verify, a revocation too.
        """
        engine = require(evidence, self.trust)
        now = self.trust.clock()
        verdicts = [
            signed_verdict(engine, one.document, one.envelope.encode(), self.trust, now)
            for one in evidence.judgements
        ]
        verdicts = [one for one in reversed(verdicts) if not _is_even(one, verdicts)]
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
        if self.reader is not None:
            return self.reader.kept(self.snapshot, self.store, self.trust)
        try:
            snapshot = read_snapshot(self.snapshot, self.trust)
        except IntegrityError as error:
            return Freshness(None, str(error))
        return age_of(snapshot, self.trust)


def _is_even(verdict: Verdict, said: Sequence[Verdict]) -> bool:
    """Says whether a pass was issued at the moment of a verdict of the same place that is none."""
    others = (one for one in said if one.environment == verdict.environment)
    return verdict.result is Result.PASS and any(
        one.result is not Result.PASS and one.issued_at == verdict.issued_at for one in others
    )


def decide_unknown(
    registry: Registry, evidence: Evidence, environment: Environment
) -> GateDecision:
    """Decides on an engine that a registry that answers does not know: the gate is closed.

    Nothing in the evidence opens it. By which rule it is closed says the gate: by the revocation
    that a sweep leaves beside an engine, for one. Raises StoreUnavailableError.
    """
    now, freshness = registry.trust.clock(), registry.freshness()
    engine = evidence.engine(now)
    said = (
        *(one.encode() for one in evidence.revocations),
        *statements_of(registry.store, engine).envelopes(Purpose.REVOCATION),
    )
    policy = GatePolicy(
        registry.trust if freshness is None else freshness.trusting(registry.trust),
        registry.compatibility, registry.driver_scope, freshness=freshness,
    )  # fmt: skip
    standing = [found_beside(engine, one, registry.trust, now) for one in said]
    decision = decide(engine, (), environment, policy, standing=standing)
    if decision.rule != "never-judged":
        return decision
    return replace(
        decision, rule="unknown", reason="the registry answers, and does not know it",
        evidence=(
            "it may have been revoked and swept, or never have been recorded there",
            "bring it in with: enginekeeper bundle import; or let its evidence decide: --offline",
        ),
    )  # fmt: skip
