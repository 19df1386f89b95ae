"""Makes waves and what is seen of their nodes; nothing of it is real."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from enginekeeper.orchestration.rollout.following import Sight
from registry.waves.types import Origin, Phase, Role, Stage, Terms, Wave, WaveNode

OLD, NEW = "580.95.05", "595.71.05"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
READY = Sight(OLD, running=())
BLOCKED = Sight(OLD, blockers=("revalidate engine abc: not-judged-there",), running=())
ON_NEW, WAITING = Sight(NEW, running=()), Sight(NEW, blockers=BLOCKED.blockers, running=())
BROKEN = Sight(NEW, problems=("GPU 1: GPU is lost",))
NO_SOAK = Terms(soak_seconds=0)


def silent(sight: Sight, seconds: float) -> Sight:
    """Returns the sight of a node that was not heard for so long."""
    return replace(sight, silent_for=timedelta(seconds=seconds))


def later(seconds: float) -> datetime:
    """Returns a time so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def node(name: str, role: Role = Role.BATCH, stage: Stage = Stage.HELD, **fields: Any) -> WaveNode:  # noqa: ANN401 - its fields
    """Returns a node that is in its stage since noon."""
    return WaveNode(name, role, stage, **{"since": NOON, "previous_driver": OLD, **fields})


def wave(*nodes: WaveNode, phase: Phase = Phase.QUALIFYING, **fields: Any) -> Wave:  # noqa: ANN401 - its fields
    """Returns a wave from R580 to R595."""
    base: dict[str, Any] = {
        "name": "to-r595", "origin": Origin.PLANNED, "driver": NEW, "cuda_driver": "13.2",
        "cuda_runtime": None, "terms": Terms(), "announced_at": NOON, "actor": "anna",
    }  # fmt: skip
    return Wave(phase=phase, nodes=nodes, **{**base, **fields})


def stages(found: Wave) -> dict[str, str]:
    """Returns the stage of each node."""
    return {one.name: str(one.stage) for one in found.nodes}
