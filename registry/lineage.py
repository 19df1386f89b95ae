"""Lineage: from weights to where engines run, and back, from any point of it.

    weights → checkpoint → engine → verdict → qualification → channel
       │                      └──→ placement
       └──→ reference → verdict

From a node one sees everything it came from and everything that came of it, and not what else came
of its ancestors. What the catalogue says is shown; a node whose signature does not count says so.

Example:
    graph = lineage(registry, "d9f3")
    for edge in graph.edges: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from registry.digests import Digest
from registry.environments import Environment
from registry.errors import (
    AmbiguousIdError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
)
from registry.queries import View
from registry.service import Registry
from registry.standing import held_by
from registry.types import (
    ChannelPosition,
    Checkpoint,
    Engine,
    EngineFilter,
    Model,
    Qualification,
    Reference,
    Verdict,
)


class NodeKind(StrEnum):
    """What a node of the graph is."""

    WEIGHTS = "weights"
    CHECKPOINT = "checkpoint"
    REFERENCE = "reference"
    ENGINE = "engine"
    VERDICT = "verdict"
    QUALIFICATION = "qualification"
    CHANNEL = "channel"
    PLACEMENT = "placement"


@dataclass(frozen=True)
class Node:
    """One thing of the graph."""

    id: str
    """Its kind and digest or name: the same in every graph."""
    kind: NodeKind
    name: str
    """For a person, in a few words."""
    state: str | None = None
    """What is to be seen at once: `revoked`, `fail`, `superseded`, `unverified`."""
    digest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the node as a JSON object."""
        return {
            "id": self.id, "kind": str(self.kind), "name": self.name, "state": self.state,
            "digest": self.digest,
        }  # fmt: skip


@dataclass
class Lineage:
    """A graph around one node: what was asked for."""

    root: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    """By id, ancestors before what came of them."""
    below: dict[str, dict[str, None]] = field(default_factory=dict)
    """What came of each node, in order."""

    def add(self, node: Node, above: str | None = None) -> str:
        """Adds a node, and the edge from what it was made from; returns its id."""
        self.nodes.setdefault(node.id, node)
        if above is not None:
            self.below.setdefault(above, {})[node.id] = None
        return node.id

    @property
    def edges(self) -> list[tuple[str, str]]:
        """From what something was made from to what was made."""
        return [(above, one) for above, many in self.below.items() for one in many]

    def tree(self) -> Iterator[tuple[int, Node]]:
        """Yields the nodes as a tree, with depths; what came of several comes below each."""
        later = {after for _, after in self.edges}
        waiting = [(0, node) for node in self.nodes if node not in later][::-1]
        while waiting:
            depth, node = waiting.pop()
            yield depth, self.nodes[node]
            waiting += [(depth + 1, one) for one in self.below.get(node, {})][::-1]

    def as_dict(self) -> dict[str, Any]:
        """Returns the graph as a JSON object."""
        return {
            "root": self.root,
            "nodes": [node.as_dict() for node in self.nodes.values()],
            "edges": [{"from": before, "to": after} for before, after in self.edges],
        }


Found = Model | Checkpoint | Engine | Verdict | Reference


def lineage(registry: Registry, reference: str | Digest) -> Lineage:
    """Returns the graph around a model, checkpoint, reference, engine or verdict.

    It is named by its id or an unambiguous start of one, a model by its name too. Raises
    RecordNotFoundError, and AmbiguousIdError for the start of several.
    """
    with registry.catalogue.read() as view:
        return _Weaver(registry, view, Lineage()).around(_find(view, reference))


def _find(view: View, reference: str | Digest) -> Found:
    looks: tuple[Callable[[str | Digest], Found], ...] = (
        view.engine, view.checkpoint, view.verdict, view.reference, view.model,
    )  # fmt: skip
    found: list[Found] = [one for one in view.models() if one.name == str(reference)]
    for look in looks if not found else ():
        try:
            found.append(look(reference))
        except RecordNotFoundError:
            continue
    if not found:
        raise RecordNotFoundError(
            "there is no such model, checkpoint, reference, engine or verdict",
            actual=str(reference),
            remedy="enginekeeper engine list",
        )
    if len(found) > 1:
        fitting = ", ".join(f"{_kind(one)} {one.digest.short}" for one in found)
        raise AmbiguousIdError(
            f"the id fits several: {fitting}",
            actual=str(reference),
            expected="the id of one",
            remedy="give more of its digits",
        )
    return found[0]


def _kind(found: Found) -> str:
    return "weights" if isinstance(found, Model) else type(found).__name__.lower()


@dataclass(frozen=True)
class _Stand:
    """An engine's place in a channel."""

    position: ChannelPosition
    admitted: Environment
    """What the gate was asked about when it got there."""


@dataclass(frozen=True)
class _Life:
    """What became of an engine: where it passed, and where it stands."""

    qualifications: list[Qualification]
    stands: list[_Stand]


@dataclass
class _Weaver:
    """Adds nodes, each with the edge from what it was made from."""

    registry: Registry
    view: View
    graph: Lineage
    channels: dict[str, list[_Stand]] = field(default_factory=dict)
    """What every channel of a model resolves to, asked for once."""

    def around(self, found: Found) -> Lineage:
        """Adds what something came from and what came of it."""
        if isinstance(found, Model):
            self.graph.root = self._weights(found)
            self._down_from_weights(found)
        elif isinstance(found, Checkpoint):
            self.graph.root = self._checkpoint(found)
            self._engines(EngineFilter(checkpoint=found.digest))
        elif isinstance(found, Engine):
            self.graph.root = self._engine(found)
            self._down_from_engine(found, references=True)
        elif isinstance(found, Verdict):
            engine = self.view.engine(found.engine)
            compared = self._compared_with(found)
            self.graph.root = self._verdict(engine, found, self._engine(engine), compared)
            self._down_from_verdict(found, self._life(engine))
        else:
            self.graph.root = self._reference(found)
            self._down_from_reference(found)
        return self.graph

    def _down_from_weights(self, model: Model) -> None:
        for reference in self.view.references(model.digest):
            self._reference(reference)
        for checkpoint in self.view.checkpoints(model.digest):
            self._checkpoint(checkpoint)
        self._engines(EngineFilter(weights=model.digest))

    def _engines(self, wanted: EngineFilter) -> None:
        for engine in self.view.engines(wanted):
            self._engine(engine)
            self._down_from_engine(engine)

    def _down_from_engine(self, engine: Engine, *, references: bool = False) -> None:
        above, life = _id(NodeKind.ENGINE, engine.digest), self._life(engine)
        for verdict in self.view.verdicts(engine.digest):
            compared = self._compared_with(verdict) if references else None
            self._verdict(engine, verdict, above, compared)
            self._down_from_verdict(verdict, life)
        self._channels(life, above)
        for placement in self.view.placements(engine.digest):
            name = f"{placement.node}:{placement.path}"
            self.graph.add(Node(f"placement {name}", NodeKind.PLACEMENT, name), above)

    def _down_from_verdict(self, verdict: Verdict, life: _Life) -> None:
        for one in life.qualifications:
            if one.verdict == verdict.digest:
                self._channels(life, self._qualification(one), one)

    def _down_from_reference(self, reference: Reference) -> None:
        """Adds the verdicts that compared with a reference: their documents say so."""
        for engine in self.view.engines(EngineFilter(weights=reference.model)):
            verdicts = [
                one
                for one in self.view.verdicts(engine.digest)
                if self._compared_with(one) == reference.digest
            ]
            life = self._life(engine) if verdicts else _Life([], [])
            for verdict in verdicts:
                self._verdict(engine, verdict, self._engine(engine), reference.digest)
                self._down_from_verdict(verdict, life)

    def _life(self, engine: Engine) -> _Life:
        if engine.model_name not in self.channels:
            admitted = self.view.admitted(engine.model_name)
            self.channels[engine.model_name] = [
                _Stand(one, admitted[one.place]) for one in self.view.channels(engine.model_name)
            ]
        stands = self.channels[engine.model_name]
        return _Life(
            self.view.qualifications(engine.digest),
            [one for one in stands if one.position.engine == engine.digest],
        )

    def _weights(self, model: Model) -> str:
        name = f"{model.name} ({model.source})"
        return self.graph.add(_node(NodeKind.WEIGHTS, model.digest, name))

    def _weights_of(self, made: Checkpoint | Engine | Reference) -> str:
        known = _id(NodeKind.WEIGHTS, made.model)
        return known if known in self.graph.nodes else self._weights(self.view.model(made.model))

    def _checkpoint(self, checkpoint: Checkpoint) -> str:
        above = self._weights_of(checkpoint)
        repaired = f", {len(checkpoint.repairs)} repairs" if checkpoint.repairs else ""
        return self.graph.add(
            _node(NodeKind.CHECKPOINT, checkpoint.digest, f"{checkpoint.recipe}{repaired}"), above
        )

    def _reference(self, reference: Reference) -> str:
        above = self._weights_of(reference)
        name = f"{reference.runtime}, {reference.dtype}"
        return self.graph.add(_node(NodeKind.REFERENCE, reference.digest, name), above)

    def _engine(self, engine: Engine) -> str:
        if _id(NodeKind.ENGINE, engine.digest) in self.graph.nodes:
            return _id(NodeKind.ENGINE, engine.digest)
        if engine.checkpoint is None:
            above = self._weights_of(engine)
        else:
            above = _id(NodeKind.CHECKPOINT, engine.checkpoint)
            if above not in self.graph.nodes:
                self._checkpoint(self.view.checkpoint(engine.checkpoint))
        held = held_by(self.view.standing(engine.digest))
        signed = self.registry.signatures(engine, [])[0]
        state = None if held is None else str(held.kind)
        return self.graph.add(
            _node(
                NodeKind.ENGINE, engine.digest, f"{engine.variant} for {engine.target}",
                state if signed.fault is None else "unverified",
            ),
            above,
        )  # fmt: skip

    def _verdict(
        self, engine: Engine, verdict: Verdict, above: str, compared: Digest | None
    ) -> str:
        """Adds a verdict, below the reference that it compared with as well, if that is given."""
        _, signed = self.registry.signatures(engine, [verdict])
        state = str(verdict.result) if signed.fault is None else "unverified"
        name = f"on {verdict.environment}"
        node = _node(NodeKind.VERDICT, verdict.digest, name, state)
        self.graph.add(node, above)
        if compared is not None and self._has_reference(compared, engine):
            self.graph.add(node, _id(NodeKind.REFERENCE, compared))
        return node.id

    def _has_reference(self, digest: Digest, engine: Engine) -> bool:
        """Says whether a reference of an engine's weights is in the graph, where it can be."""
        if _id(NodeKind.REFERENCE, digest) in self.graph.nodes:
            return True
        found = self.view.known_reference(digest)
        if found is None or found.model != engine.model:
            return False
        self._reference(found)
        return True

    def _qualification(self, one: Qualification) -> str:
        node = Node(
            f"qualification {one.verdict}", NodeKind.QUALIFICATION, f"on {one.environment}",
            "current" if one.current else "superseded",
        )  # fmt: skip
        return self.graph.add(node, _id(NodeKind.VERDICT, one.verdict))

    def _channels(self, life: _Life, above: str, by: Qualification | None = None) -> None:
        """Adds the channels that an engine stands in: below the qualification that lets it.

        Or below the engine itself, when it is not qualified for just that environment (any more).
        """
        qualified = {one.environment for one in life.qualifications if one.current}
        for stand in life.stands:
            lets = by is not None and by.current and by.environment == stand.admitted
            if lets or (by is None and stand.admitted not in qualified):
                place = stand.position.place
                name = f"{place.channel} of {place.model} on {place.target}"
                self.graph.add(Node(f"channel {name}", NodeKind.CHANNEL, name), above)

    def _compared_with(self, verdict: Verdict) -> Digest | None:
        """Returns the reference that a verdict's document names; None for one that is lost."""
        try:
            document = self.registry.verdict_document(verdict)
            evidence = document.get("evidence")
            named = evidence.get("reference") if isinstance(evidence, dict) else None
            return Digest.parse(named) if isinstance(named, str) else None
        except (IntegrityError, InvalidRecordError, RecordNotFoundError):
            return None


def _id(kind: NodeKind, digest: Digest) -> str:
    return f"{kind} {digest}"


def _node(kind: NodeKind, digest: Digest, name: str, state: str | None = None) -> Node:
    return Node(_id(kind, digest), kind, name, state, str(digest))
