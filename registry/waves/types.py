"""What goes into the tables of waves and comes out of them, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Origin(StrEnum):
    """How a change came to be known."""

    PLANNED = "planned"
    """Somebody announced it."""

    FOUND = "found"
    """Nodes had it already when anybody looked."""


class Phase(StrEnum):
    """Where a wave as a whole is."""

    QUALIFYING = "qualifying"
    """Nodes that serve nothing take the driver, and engines are judged on them."""

    CANARY = "canary"
    ROLLING = "rolling"
    DONE = "done"
    STOPPED = "stopped"
    """Something failed; nothing more is released until somebody says so."""

    ABORTED = "aborted"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"


ENDED = frozenset({Phase.DONE, Phase.ABORTED, Phase.ROLLED_BACK})
"""Phases that nothing follows by itself."""


class Stage(StrEnum):
    """Where one node of a wave is."""

    HELD = "held"
    """It must not get the driver."""

    RELEASED = "released"
    """It may get the driver, and has not reported it."""

    UPGRADED = "upgraded"
    """It has the driver, and not every engine on it is qualified under it."""

    DONE = "done"
    """It has the driver, and every engine on it is qualified under it."""

    FAILED = "failed"
    REVERTING = "reverting"
    """It may get the driver back that it had."""

    REVERTED = "reverted"


class Role(StrEnum):
    """What a node is in a wave for."""

    QUALIFICATION = "qualification"
    """Drained: engines are judged on it before anything serves under the driver."""

    CANARY = "canary"
    BATCH = "batch"


class WorkState(StrEnum):
    """What became of a judgement or a build that a wave needs."""

    WAITING = "waiting"
    DISPATCHED = "dispatched"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How far a wave may go at once."""

    max_unavailable: str = "1"
    """Nodes, or a share of them such as `25%`."""
    canary: int = 1
    """Nodes that serve under the driver before the rest."""
    soak_seconds: int = 600
    """How long the canary must have been well."""
    patience_seconds: int = 3600
    """How long a released node may take, or be silent, before it counts as failed."""
    stale_after_seconds: int | None = None
    """How long a node may be silent before it counts as away; None: as its source has it."""


@dataclass(frozen=True)
class WaveNode:
    """One node of a wave."""

    name: str
    role: Role
    stage: Stage
    since: datetime
    """When it got into its stage."""
    previous_driver: str | None = None
    named: bool = False
    """Whether somebody named it for qualification: their word that it serves nothing."""
    reasons: tuple[str, ...] = ()
    """Why it is where it is."""

    @property
    def may_change(self) -> bool:
        """Says whether its driver may be changed now, or is what it should be."""
        return self.stage in (Stage.RELEASED, Stage.UPGRADED, Stage.DONE, Stage.REVERTING)

    def as_dict(self) -> dict[str, Any]:
        """Returns the node as JSON values."""
        return {
            "node": self.name,
            "role": str(self.role),
            "stage": str(self.stage),
            "since": self.since.isoformat(),
            "previous_driver": self.previous_driver,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class WaveWork:
    """A judgement or a build that a wave needs on one kind of GPU."""

    engine: str
    product: str
    mig_profile: str
    """Empty for a whole GPU."""
    action: str
    """`revalidate` or `rebuild`."""
    state: WorkState
    changed_at: datetime
    variant: str = ""
    attempt: int = 0
    run: str | None = None
    """The flow run that was asked for it."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two of them one."""
        return self.engine, self.product, self.mig_profile

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "engine": self.engine,
            "variant": self.variant,
            "gpu": self.product,
            "mig_profile": self.mig_profile or None,
            "action": self.action,
            "state": str(self.state),
            "changed_at": self.changed_at.isoformat(),
            "attempt": self.attempt,
            "run": self.run,
        }


@dataclass(frozen=True, kw_only=True)
class Wave:
    """A driver change over some nodes."""

    name: str
    origin: Origin
    driver: str
    cuda_driver: str
    cuda_runtime: str | None
    phase: Phase
    terms: Terms
    announced_at: datetime
    actor: str
    nodes: tuple[WaveNode, ...]
    """By name."""
    work: tuple[WaveWork, ...] = ()
    places: tuple[str, ...] = ()
    """Inventories that the fleet is read from; none: the registry's own fleet."""
    simulated: bool = False
    webhook: str | None = None
    deployment: str | None = None
    """The Prefect deployment that judges and builds; None: somebody does it by hand."""
    specs: tuple[str, ...] = ()
    safe_at: datetime | None = None
    """Since when every node has qualified engines only, as far as that is seen."""
    ended_at: datetime | None = None
    reason: str | None = None
    """Why it stopped or was aborted."""
    version: int = 0
    """Grows with every change."""
    notified: int = 0
    """The version that the webhook has taken."""

    @property
    def ended(self) -> bool:
        """Says whether nothing follows by itself."""
        return self.phase in ENDED

    def stage_counts(self) -> dict[str, int]:
        """Returns how many nodes are in each stage that any is in."""
        counts = {str(stage): 0 for stage in Stage}
        for node in self.nodes:
            counts[node.stage] += 1
        return {stage: count for stage, count in counts.items() if count}
