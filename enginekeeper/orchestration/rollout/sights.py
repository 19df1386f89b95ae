"""What a wave sees of its nodes: inventories held against a plan for the new driver. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from enginekeeper.compatibility.decision import FAILED
from enginekeeper.fleet.nodes import NodeFacts
from enginekeeper.orchestration.rollout.following import Sight
from enginekeeper.orchestration.waves import WavePlan


def sights_of(
    nodes: Iterable[NodeFacts],
    plan: WavePlan,
    back: Mapping[str, tuple[str, ...]],
    *,
    now: datetime,
) -> dict[str, Sight]:
    """Returns what is seen of each node; `back` is why it may not have the driver it had."""
    reasons = reasons_of(plan)
    return {
        node.name: Sight(
            driver=node.driver,
            blockers=_of_engines(node, reasons.get(node.name, ())),
            problems=node.problems,
            running=node.running,
            back=back.get(node.name, ()),
            silent_for=_silence(node, now),
        )
        for node in nodes
    }


def reasons_of(plan: WavePlan) -> dict[str, tuple[str, ...]]:
    """Returns why each held node is held."""
    return {name: held.reasons for held in plan.held for name in held.nodes}


def blockers_in(nodes: Iterable[NodeFacts], plan: WavePlan) -> dict[str, tuple[str, ...]]:
    """Returns why engines on each node may not run under a plan's driver, node faults apart."""
    reasons = reasons_of(plan)
    return {node.name: _of_engines(node, reasons.get(node.name, ())) for node in nodes}


def failures_in(plan: WavePlan) -> tuple[str, ...]:
    """Returns the engines that were judged under the plan's driver and failed."""
    return tuple(
        f"engine {group.engine.digest.partition(':')[2][:12]} on {group.kind.product}"
        for group in plan.groups
        if any(one.rule is FAILED for one in group.decision.deciding)
    )


def _silence(node: NodeFacts, now: datetime) -> timedelta | None:
    # a clock that goes ahead says nothing of the future
    return None if node.heard_at is None else max(timedelta(0), now - node.heard_at)


def _of_engines(node: NodeFacts, reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(one for one in reasons if one not in node.problems)
