"""Lineage: what something came from and what came of it, from every point of the graph."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from registry.blobs.local import LocalBlobStore
from registry.digests import canonical_json, digest_bytes
from registry.errors import AmbiguousIdError, RecordNotFoundError
from registry.lifecycle import quarantine
from registry.lineage import Lineage, NodeKind, lineage
from registry.publishing import CheckpointPublication
from registry.trust import Trust
from registry.types import Checkpoint, Engine, Placement, Reference, Result, Verdict
from tests.factories.registry import CPU, START, WEIGHTS, Workbench, with_registry
from tests.fakes.statements import asked


@dataclass(frozen=True)
class House:
    """Two engines of one checkpoint; the first was judged, serves and lies on a node."""

    bench: Workbench
    checkpoint: Checkpoint
    reference: Reference
    engine: Engine
    sibling: Engine
    verdict: Verdict

    def of(self, what: object) -> Lineage:
        return lineage(self.bench.registry, str(what))


@pytest.fixture
def house(bench: Workbench) -> House:
    checkpoint = bench.registry.publish_checkpoint(
        CheckpointPublication(bench.publication(content=b"c").directory, WEIGHTS, "w8a16")
    )
    engine, sibling = (
        bench.registry.publish_engine(
            replace(bench.publication(content=content), checkpoint=checkpoint.digest)
        )
        for content in (b"1", b"2")
    )
    reference = bench.record()
    verdict = bench.judge(engine, more={"evidence": {"reference": str(reference.digest)}})
    bench.judge(sibling, Result.FAIL)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    with bench.registry.catalogue.edit() as draft:
        draft.add_placement(Placement("node-7", "/models/x", engine.digest, START))
    return House(bench, checkpoint, reference, engine, sibling, verdict)


def kinds(graph: Lineage) -> list[str]:
    return sorted(str(node.kind) for node in graph.nodes.values())


def named(graph: Lineage, kind: NodeKind) -> list[str | None]:
    return [node.digest for node in graph.nodes.values() if node.kind is kind]


ALL = [
    "channel", "checkpoint", "engine", "engine", "placement", "qualification", "reference",
    "verdict", "verdict", "weights",
]  # fmt: skip
OF_ENGINE = [
    "channel", "checkpoint", "engine", "placement", "qualification", "reference", "verdict",
    "weights",
]  # fmt: skip
OF_VERDICT = [
    "channel", "checkpoint", "engine", "qualification", "reference", "verdict", "weights",
]  # fmt: skip


def test_everything_comes_of_the_weights(house: House) -> None:
    for name in (WEIGHTS, "smollm2-135m", WEIGHTS.short):
        assert kinds(house.of(name)) == ALL


def test_a_checkpoint_shows_its_engines_and_the_weights(house: House) -> None:
    graph = house.of(house.checkpoint.digest.short)
    assert kinds(graph) == [kind for kind in ALL if kind != "reference"]
    assert graph.root == f"checkpoint {house.checkpoint.digest}"


def test_an_engine_shows_its_ancestors_and_what_came_of_it_but_not_its_siblings(
    house: House,
) -> None:
    graph = house.of(house.engine.digest.short)
    assert kinds(graph) == OF_ENGINE
    assert named(graph, NodeKind.ENGINE) == [str(house.engine.digest)]
    way = [str(graph.nodes[node].kind) for node in _way(graph, f"weights {WEIGHTS}")]
    assert way == ["weights", "checkpoint", "engine", "verdict", "qualification", "channel"]


def _way(graph: Lineage, start: str) -> list[str]:
    way = [start]
    while graph.below.get(way[-1]):
        way.append(next(iter(graph.below[way[-1]])))
    return way


def test_a_verdict_and_a_reference_show_their_ways(house: House) -> None:
    assert kinds(house.of(house.verdict.digest.short)) == OF_VERDICT
    of_reference = house.of(house.reference.digest.short)
    assert kinds(of_reference) == OF_VERDICT
    assert (f"reference {house.reference.digest}", f"verdict {house.verdict.digest}") in (
        of_reference.edges
    )


def test_a_channel_hangs_on_the_engine_when_its_qualification_is_gone(house: House) -> None:
    house.bench.judge(house.engine, Result.FAIL)
    graph = house.of(house.engine.digest)
    channel = "channel prod of smollm2-135m on cpu"
    assert [above for above, below in graph.edges if below == channel] == [
        f"engine {house.engine.digest}"
    ]
    states = {n.state for n in graph.nodes.values() if n.kind is NodeKind.QUALIFICATION}
    assert states == {"superseded"}


def test_what_is_held_or_not_signed_says_so(house: House) -> None:
    quarantine(house.bench.registry, house.engine, "odd")
    node = house.of(house.engine.digest).nodes[f"engine {house.engine.digest}"]
    assert node.state == "quarantined"
    distrusting = with_registry(house.bench, trust=Trust()).registry
    graph = lineage(distrusting, house.engine.digest)
    states = {graph.nodes[f"engine {house.engine.digest}"].state}
    states |= {node.state for node in graph.nodes.values() if node.kind is NodeKind.VERDICT}
    assert states == {"unverified"}


def test_the_tree_shows_every_node_below_what_it_came_from(house: House) -> None:
    graph = house.of("smollm2-135m")
    lines = list(graph.tree())
    assert lines[0] == (0, graph.nodes[graph.root])
    assert {node.id for _, node in lines} == set(graph.nodes)
    assert max(depth for depth, _ in lines) == 5


def test_the_json_names_every_node_once_and_every_edge_between_them(house: House) -> None:
    document = json.loads(canonical_json(house.of(house.engine.digest).as_dict()))
    ids = [node["id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids)
    assert document["root"] in ids
    for edge in document["edges"]:
        assert {edge["from"], edge["to"]} <= set(ids)


def test_an_unknown_id_is_not_found(house: House) -> None:
    with pytest.raises(RecordNotFoundError, match="no such model"):
        house.of("deadbeef")


def test_the_start_of_several_ids_names_them(house: House) -> None:
    with house.bench.registry.catalogue.edit() as draft:
        twin = replace(house.checkpoint, digest=replace(house.engine.digest, value=(
            house.engine.digest.value[:20] + "0" * 44)))  # fmt: skip
        draft.add_checkpoint(twin)
    with pytest.raises(AmbiguousIdError, match=f"engine {house.engine.digest.short}, checkpoint"):
        house.of(house.engine.digest.short)


def test_a_reference_of_other_weights_is_not_what_a_verdict_compared_with(house: House) -> None:
    other = digest_bytes(b"other weights")
    registry = house.bench.registry
    registry.record_model(other, "other", source="test", architecture="LlamaForCausalLM")
    stranger = registry.record_reference(
        replace(house.bench.reference(b"other scores"), model=other)
    )
    house.bench.judge(house.engine, more={"evidence": {"reference": str(stranger.digest)}})
    house.bench.judge(house.engine, more={"evidence": {"reference": "no digest at all"}})
    graph = house.of(house.engine.digest)
    assert named(graph, NodeKind.REFERENCE) == [str(house.reference.digest)]
    assert len(named(graph, NodeKind.VERDICT)) == 3


def judge_often(house: House, times: int = 5) -> None:
    """Judges the engine again and again, each time with another document."""
    for number in range(times):
        evidence = {"reference": str(house.reference.digest)}
        house.bench.judge(house.engine, more={"evidence": evidence, "number": number})


def test_statements_do_not_grow_with_verdicts(house: House) -> None:
    with asked() as before:
        house.of(house.engine.digest)
    judge_often(house)
    with asked() as after:
        graph = house.of(house.engine.digest)
    assert len(named(graph, NodeKind.VERDICT)) == 6
    assert len(after) == len(before) <= 26


def test_each_document_is_read_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_often(house)
    read: list[str] = []
    get = LocalBlobStore.get_document

    def noted(store: LocalBlobStore, name: str) -> bytes:
        read.append(name)
        return get(store, name)

    monkeypatch.setattr(LocalBlobStore, "get_document", noted)
    for root, documents in ((house.engine, 6), (house.reference, 7), (house.verdict, 1)):
        read.clear()
        house.of(root.digest)
        assert len(read) == len(set(read)) == documents


def test_weights_cost_a_few_statements_for_each_engine(house: House) -> None:
    costs = []
    for content in (b"3", b"4", b"5"):
        with asked() as statements:
            house.of("smollm2-135m")
        costs.append(len(statements))
        engine = house.bench.publish(content=content)
        house.bench.judge(engine)
        house.bench.registry.set_channel(f"ring-{content.decode()}", engine.digest, CPU, actor="a")
    assert costs[1] - costs[0] == costs[2] - costs[1] <= 6
    assert costs[0] <= 30


def test_evidence_that_is_lost_costs_an_edge_and_nothing_else(house: House) -> None:
    house.bench.registry.store.remove_document(house.verdict.path)
    assert kinds(house.of(house.engine.digest)) == [
        kind for kind in OF_ENGINE if kind != "reference"
    ]
