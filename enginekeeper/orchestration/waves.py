"""The plan of a driver wave: what a new driver would break, before it is on any node. Pure.

Rules:

- each distinct (engine, GPU, platform) is decided once for the new driver, however many nodes it
  is on, by `compatibility.decision`;
- a node may be upgraded when every engine on it is reused there, and nothing else is wrong with
  it; every other node is held, each with its reasons;
- what nobody knows holds: an engine that is not in the catalogue, bytes that are not the
  engine's, a GPU that does not answer;
- engines for CPUs and nodes without a GPU are not touched by a driver;
- what is not known is not counted: hours without a record are None, not 0; nobody records how
  long a judgement takes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from enginekeeper.compatibility.cuda import cuda_of_driver
from enginekeeper.compatibility.decision import Decision, Judgement, decide
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.placing import Effect
from enginekeeper.compatibility.versions import has_minor, readable
from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind, meant_for, missing_for, runtime_of
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.nodes import NodeFacts, NodeShape
from enginekeeper.fleet.traffic import Traffic
from registry.environments import DriverScope
from registry.keys import EngineKey

_SPELLED = re.compile(r"[1-9]\d*(\.(0\d|[1-9]\d+))+", re.ASCII)
"""A driver's version as NVML spells it: numbers behind the first have two digits at least. So has
every driver in NVIDIA's tables (compatibility/data/cuda.json)."""
_GRAVEST_FIRST = (Effect.REFUSE, Effect.REBUILD, Effect.REVALIDATE, Effect.REUSE)


@dataclass(frozen=True)
class DriverChange:
    """What the nodes would get."""

    driver: DriverState
    cuda_runtime: str | None
    """CUDA of the containers afterwards; None: as each engine has it now."""
    on: date

    @classmethod
    def to(
        cls, driver: str, *, on: date, cuda: str | None = None, cuda_driver: str | None = None
    ) -> DriverChange:
        """Makes a change to a driver; raises InputError for what is no version, or not known."""
        for name, text in (("driver", driver), ("cuda", cuda), ("cuda driver", cuda_driver)):
            if text is not None and not readable(text):
                raise InputError(f"not a {name} version", actual=text[:80], expected="as 595.71.05")
        for name, text in (("cuda", cuda), ("cuda driver", cuda_driver)):
            if text is not None and not has_minor(text):
                raise InputError(
                    f"the {name} version has no minor",
                    actual=text, expected=f"{text}.0, {text}.2 or whichever it is",
                )  # fmt: skip
        api = cuda_driver or cuda_of_driver(driver)
        if api is None:
            raise InputError(
                "the CUDA of this driver's branch is not in the table",
                actual=driver,
                remedy="name it, as nvidia-smi prints it: --cuda-driver 13.4",
            )
        return cls(DriverState(driver, api), cuda, on)

    @classmethod
    def announced(
        cls, driver: str, *, on: date, cuda: str | None = None, cuda_driver: str | None = None
    ) -> DriverChange:
        """Makes a change to a driver that somebody names; raises InputError as `to` does.

        Nodes and verdicts have drivers as NVML spells them and are compared with that: another
        spelling would meet none of them, and is refused.
        """
        change = cls.to(driver, on=on, cuda=cuda, cuda_driver=cuda_driver)
        if _SPELLED.fullmatch(driver) is None:
            first, *rest = driver.split(".")
            meant = ".".join([first.lstrip("0"), *(one.lstrip("0").zfill(2) for one in rest)])
            raise InputError(
                "not how a driver spells its version",
                actual=driver,
                expected=meant if rest else f"all of it, as in {meant}.71.05",
                remedy="name it as nvidia-smi prints it",
            )
        return change


@dataclass(frozen=True)
class FleetEngine:
    """What the catalogue knows of an engine on the fleet; verified by whoever hands it in."""

    digest: str
    key: EngineKey
    variant: str
    size: int
    """Bytes."""
    judgements: tuple[Judgement, ...]
    """Newest first."""
    build_gpu_seconds: float | None = None
    """What its build took, times its GPUs."""
    withdrawn: str | None = None
    """Why the gate is closed on it everywhere, as `was ...` goes on."""


@dataclass(frozen=True)
class WaveGroup:
    """One engine on one kind of GPU, on all the nodes that have both."""

    engine: FleetEngine
    kind: GpuKind
    os: str
    cpu_architecture: str
    decision: Decision
    nodes: tuple[str, ...]

    @property
    def action(self) -> Effect:
        """What would be done."""
        return self.decision.action

    @property
    def key(self) -> str:
        """Digest of the engine's key."""
        return str(self.engine.key.digest())

    @property
    def build_gpu_hours(self) -> float | None:
        """What a build of it would take, if it took as long as the last one; None if unknown.

        Zero where nothing is built.
        """
        if self.action is not Effect.REBUILD:
            return 0.0
        seconds = self.engine.build_gpu_seconds
        return None if seconds is None else seconds / 3600

    @property
    def judging_gpu_hours(self) -> float | None:
        """What judging it would take: nothing where nothing is judged, else not known."""
        # no record says how long a judgement held its GPUs
        return None if self.action in (Effect.REVALIDATE, Effect.REBUILD) else 0.0

    @property
    def bytes(self) -> int:
        """What its nodes would have to fetch, if the next engine were as large as this one."""
        return self.engine.size * len(self.nodes) if self.action is Effect.REBUILD else 0


@dataclass(frozen=True)
class HeldNodes:
    """Nodes that must not be upgraded yet, for the same reasons."""

    nodes: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class WavePlan:
    """What a driver change would do to a fleet."""

    change: DriverChange
    groups: tuple[WaveGroup, ...]
    """The gravest first, then by the number of nodes."""
    held: tuple[HeldNodes, ...]
    ready: tuple[str, ...]
    """Nodes that may be upgraded now."""
    untouched: tuple[str, ...]
    """Nodes without a GPU."""
    already: int
    """How many nodes have this driver now."""
    simulated: bool
    traffic: Traffic | None = None
    """By what the nodes stand in order: the least first; by their names without it."""
    left_out: tuple[str, ...] = ()
    """Simulated nodes, in a plan for real ones."""

    @property
    def refused(self) -> bool:
        """Says whether anything would not work there at all."""
        return any(group.action is Effect.REFUSE for group in self.groups)

    @property
    def build_gpu_hours(self) -> float | None:
        """GPU-hours of all builds, one for each key, GPU and platform; None if one is unknown."""
        builds = {
            (group.key, group.kind, group.os, group.cpu_architecture): group.build_gpu_hours
            for group in self.groups
            if group.action is Effect.REBUILD
        }
        known = [hours for hours in builds.values() if hours is not None]
        return sum(known) if len(known) == len(builds) else None

    @property
    def judging_gpu_hours(self) -> float | None:
        """GPU-hours of all judgements; None if one is unknown."""
        known = [group.judging_gpu_hours for group in self.groups]
        return None if None in known else 0.0

    @property
    def bytes(self) -> int:
        """Bytes that all nodes would fetch."""
        return sum(group.bytes for group in self.groups)


_Alike = tuple[NodeShape, tuple[str, ...], tuple[str, ...]]
"""What of a node decides: its shape, its engines, its problems."""
_Bound = tuple[str, GpuKind, str, str]
"""What is decided once: engine, kind of GPU, operating system, CPU architecture."""


@dataclass(frozen=True)
class _Standing:
    """What an engine on nodes of one shape comes down to."""

    decided: tuple[int, ...] = ()
    """Numbers of the decisions about it."""
    problem: str | None = None
    """Why there are none."""


class _Decisions:
    """Numbers what is to be decided, each once, and remembers where an engine meets what."""

    def __init__(self, engines: Mapping[str, FleetEngine]) -> None:
        self._engines = engines
        self._numbers: dict[_Bound, int] = {}
        self._standings: dict[tuple[str, NodeShape], _Standing] = {}

    def standing(self, digest: str, shape: NodeShape) -> _Standing:
        """Returns what an engine on nodes of a shape comes down to."""
        found = self._standings.get((digest, shape))
        if found is None:
            found = self._standings[digest, shape] = self._stand(digest, shape)
        return found

    def bounds(self) -> tuple[_Bound, ...]:
        """Returns what is to be decided, by number."""
        return tuple(self._numbers)

    def _stand(self, digest: str, shape: NodeShape) -> _Standing:
        engine = self._engines.get(digest)
        if engine is None:
            return _Standing(problem=f"engine {_short(digest)} is not in the catalogue")
        if engine.withdrawn is not None:
            return _Standing(problem=f"engine {_short(digest)} was {engine.withdrawn}")
        if "instruction_set" in engine.key.hard:
            return _Standing()
        if not shape.complete and missing_for(engine.key, shape.kinds):
            wanted = engine.key.hard.get("gpu_product")
            return _Standing(
                problem=f"engine {_short(digest)} is for {wanted}, and not every GPU here answers"
            )
        bounds = [
            (digest, kind, shape.os, shape.cpu_architecture)
            for kind in meant_for(engine.key, shape.kinds)
        ]
        if not bounds:
            return _Standing(problem=f"engine {_short(digest)} is for a GPU, and none answers")
        return _Standing(tuple(self._numbers.setdefault(one, len(self._numbers)) for one in bounds))


def plan_wave(
    nodes: Iterable[NodeFacts],
    engines: Mapping[str, FleetEngine],
    change: DriverChange,
    *,
    scope: DriverScope = DriverScope.EXACT,
) -> WavePlan:
    """Plans a change for nodes; an engine that is not among `engines` is unknown."""
    nodes = list(nodes)  # kept while their parts are told apart by identity
    alike, untouched = _alike(nodes)
    new = change.driver.version
    decisions = _Decisions(engines)
    members: dict[int, list[str]] = defaultdict(list)
    for (shape, digests, _), names in alike.items():
        for digest in digests:
            for number in decisions.standing(digest, shape).decided:
                members[number] += names
    groups = [
        _group(engines[bound[0]], bound, change, scope, members[number])
        for number, bound in enumerate(decisions.bounds())
    ]
    ready, held = _sorted_out(alike, decisions, [_reason(group) for group in groups])
    return WavePlan(
        change=change,
        groups=tuple(sorted(groups, key=_order)),
        held=held,
        ready=ready,
        untouched=tuple(sorted(untouched)),
        already=sum(node.driver == new for node in nodes),
        simulated=any(node.simulated for node in nodes),
    )


def _alike(nodes: Sequence[NodeFacts]) -> tuple[dict[_Alike, list[str]], list[str]]:
    """Returns the names of nodes by what decides about them, and of those that have no GPU.

    Nodes that were read together share their parts, so that a hundred thousand are told apart
    without looking into them.
    """
    same: dict[tuple[int, int, int, bool], tuple[NodeFacts, list[str]]] = {}
    for node in nodes:
        parts = (id(node.shape), id(node.engines), id(node.problems), node.driver is None)
        found = same.get(parts)
        if found is None:
            found = same[parts] = (node, [])
        found[1].append(node.name)
    alike: dict[_Alike, list[str]] = defaultdict(list)
    untouched: list[str] = []
    for node, names in same.values():
        if node.driver is None and not node.shape.kinds and not node.problems:
            untouched += names
        else:
            alike[node.shape, node.engines, node.problems] += names
    return alike, untouched


def _sorted_out(
    alike: Mapping[_Alike, Sequence[str]],
    decisions: _Decisions,
    reasons: Sequence[str | None],
) -> tuple[tuple[str, ...], tuple[HeldNodes, ...]]:
    """Tells the nodes that are ready from those that are held; reasons are by decision."""
    ready: list[str] = []
    held: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (shape, digests, problems), names in alike.items():
        found = list(problems)
        for digest in digests:
            standing = decisions.standing(digest, shape)
            if standing.problem is not None:
                found.append(standing.problem)
            found += [said for one in standing.decided if (said := reasons[one]) is not None]
        (held[tuple(dict.fromkeys(found))] if found else ready).extend(names)
    return tuple(sorted(ready)), tuple(
        HeldNodes(tuple(sorted(names)), said)
        for said, names in sorted(held.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _group(
    engine: FleetEngine,
    bound: _Bound,
    change: DriverChange,
    scope: DriverScope,
    names: Sequence[str],
) -> WaveGroup:
    _, kind, system, architecture = bound
    runtime = change.cuda_runtime or runtime_of(engine.key, change.driver)
    place = Place(
        kind.under(change.driver, runtime), os=system, cpu_architecture=architecture, on=change.on
    )
    decision = decide(engine.key, engine.judgements, place, scope=scope)
    return WaveGroup(engine, kind, system, architecture, decision, tuple(sorted(names)))


def _reason(group: WaveGroup) -> str | None:
    """Says why a group holds its nodes; None if it does not."""
    if group.action is Effect.REUSE:
        return None
    rules = ", ".join(one.rule.identifier for one in group.decision.deciding)
    return f"{group.action} engine {_short(group.engine.digest)}: {rules}"


def by_traffic(plan: WavePlan, traffic: Traffic) -> WavePlan:
    """Returns a plan with its nodes in the order in which they are to go: the least busy first."""
    return replace(
        plan,
        groups=tuple(replace(one, nodes=traffic.order(one.nodes)) for one in plan.groups),
        held=tuple(replace(one, nodes=traffic.order(one.nodes)) for one in plan.held),
        ready=traffic.order(plan.ready),
        traffic=traffic,
    )


def _order(group: WaveGroup) -> tuple[int, int, tuple[str, ...]]:
    kind = group.kind
    names = (kind.product, kind.compute_capability, kind.mig_profile or "")
    platform = (group.os, group.cpu_architecture)
    rank = _GRAVEST_FIRST.index(group.action)
    return rank, -len(group.nodes), (group.engine.digest, *names, *platform)


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def _order_document(plan: WavePlan) -> dict[str, Any]:
    traffic = plan.traffic
    if traffic is None:
        return {"by": "name"}
    nodes = {*plan.ready, *(name for one in plan.held for name in one.nodes)}
    return {"by": "traffic", "source": traffic.source, "unknown": traffic.unknown(nodes)}


def plan_document(plan: WavePlan) -> dict[str, Any]:
    """Returns a plan as JSON values."""
    change = plan.change
    return {
        "driver": change.driver.version,
        "cuda_driver": change.driver.cuda,
        "cuda_runtime": change.cuda_runtime,
        "simulated": plan.simulated,
        "order": _order_document(plan),
        "groups": [
            {
                "engine": group.engine.digest,
                "key": group.key,
                "variant": group.engine.variant,
                "gpu": group.kind.product,
                "mig_profile": group.kind.mig_profile,
                "os": group.os,
                "cpu_architecture": group.cpu_architecture,
                **group.decision.as_dict(),
                "nodes": list(group.nodes),
                "build_gpu_hours": group.build_gpu_hours,
                "judging_gpu_hours": group.judging_gpu_hours,
                "bytes": group.bytes,
            }
            for group in plan.groups
        ],
        "held": [{"nodes": list(one.nodes), "reasons": list(one.reasons)} for one in plan.held],
        "ready": list(plan.ready),
        "untouched": list(plan.untouched),
        "left_out": list(plan.left_out),
        "already": plan.already,
        "build_gpu_hours": plan.build_gpu_hours,
        "judging_gpu_hours": plan.judging_gpu_hours,
        "bytes": plan.bytes,
    }
