"""Waves in the catalogue, on both databases: what is kept, what is told, who comes second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry import migrate
from registry.audit import verify_chain
from registry.catalogue import Catalogue, open_catalogue
from registry.errors import ConflictError, RecordNotFoundError
from registry.waves.types import Origin, Phase, Role, Stage, Wave, WaveWork, WorkState
from tests.factories.waves import NOON, later, node, wave
from tests.fakes.statements import asked

WORK = WaveWork("sha256:abc", "NVIDIA L4", "", "revalidate", WorkState.WAITING, NOON, "m.fp8")


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    else:
        url = f"sqlite:///{tmp_path}/catalogue.db"
    migrate.upgrade(url)
    opened = open_catalogue(url)
    yield opened
    opened.close()


def begin(catalogue: Catalogue, begun: Wave) -> Wave:
    with catalogue.edit(actor="anna") as draft:
        draft.waves.begin(begun)
        return draft.waves.wave(begun.name)


def told(catalogue: Catalogue) -> list[tuple[str, dict[str, object]]]:
    with catalogue.read() as view:
        entries = list(view.audit_entries())
    verify_chain(entries)
    return [(one.action, json.loads(one.details)) for one in entries]


def test_a_wave_comes_back_as_it_was_recorded(catalogue: Catalogue) -> None:
    nodes = (node("a", Role.QUALIFICATION, named=True, reasons=("x", "y")), node("b"))
    begun = wave(
        *nodes, work=(WORK,), places=("/fleet",), specs=("/s.yaml",), webhook="https://x/",
        deployment="f/d", cuda_runtime="13.2",
    )  # fmt: skip
    assert begin(catalogue, begun) == replace(begun, version=1)
    with catalogue.read() as view:
        assert [one.name for one in view.waves.open()] == ["to-r595"]
        assert [(one.name, count) for one, count in view.waves.all()] == [("to-r595", 2)]
        ((_, found),) = view.waves.of_node("a")
        assert found == nodes[0]
        assert view.waves.known("to-r595")
        assert not view.waves.known("other")
        with pytest.raises(RecordNotFoundError, match="no such wave"):
            view.waves.wave("other")


def test_every_transition_is_in_the_audit_log_with_who_and_why(catalogue: Catalogue) -> None:
    before = begin(catalogue, wave(node("a"), node("b"), work=(WORK,)))
    changed = tuple(replace(one, stage=Stage.RELEASED, since=later(1)) for one in before.nodes)
    work = (replace(WORK, state=WorkState.DISPATCHED, attempt=1, run="run-1"),)
    after = replace(before, nodes=changed, phase=Phase.ROLLING, safe_at=later(61), work=work)

    with catalogue.edit(actor="ben") as draft:
        draft.waves.change(before, after)
        assert draft.waves.wave("to-r595") == replace(after, version=2)

    actions = told(catalogue)
    assert [action for action, _ in actions] == [
        "wave start", "wave node held", "wave rolling", "wave safe", "wave work",
        "wave node released",
    ]  # fmt: skip
    assert actions[3][1] == {"seconds": 61}
    assert actions[4][1]["run"] == "run-1"
    assert actions[5][1] == {
        "from": "held", "to": "released", "role": "batch", "nodes": ["a", "b"], "reasons": [],
    }  # fmt: skip
    with catalogue.read() as view:
        assert {one.actor for one in view.audit_entries()} == {"anna", "ben"}


def test_of_two_that_let_it_go_on_at_once_one_is_told_so(catalogue: Catalogue) -> None:
    before = begin(catalogue, wave(node("a")))
    after = replace(before, phase=Phase.CANARY)
    with catalogue.edit() as draft:
        draft.waves.change(before, after)
    with pytest.raises(ConflictError, match="meanwhile") as caught, catalogue.edit() as draft:
        draft.waves.change(before, replace(before, phase=Phase.ABORTED, reason="no"))
    assert caught.value.transient
    with catalogue.read() as view:
        assert view.waves.wave("to-r595").phase is Phase.CANARY
    assert [action for action, _ in told(catalogue)].count("wave aborted") == 0


def test_a_node_is_in_one_wave_that_goes_on(catalogue: Catalogue) -> None:
    first = begin(catalogue, wave(node("a")))
    second = wave(node("a"), node("b"), name="again")
    with pytest.raises(ConflictError, match="in a wave that goes on") as caught:
        begin(catalogue, second)
    assert "wave abort to-r595" in str(caught.value)
    with catalogue.edit() as draft:
        draft.waves.change(first, replace(first, phase=Phase.ABORTED, reason="x", ended_at=NOON))
    begin(catalogue, second)
    with catalogue.read() as view:
        assert [one.name for one, _ in view.waves.of_node("a")] == ["again", "to-r595"]
        assert view.waves.going_on(["a", "b", "c"]) == {"a": "again", "b": "again"}


def test_a_node_is_in_waves_that_were_found_besides(catalogue: Catalogue) -> None:
    begin(catalogue, wave(node("a")))
    begin(catalogue, wave(node("a"), name="found", origin=Origin.FOUND, driver="610.43.02"))
    with catalogue.read() as view:
        assert view.waves.going_on(["a", "b"]) == {"a": "to-r595"}
        assert view.waves.about("610.43.02", ["a", "b"]) == {"a": "found"}
        assert [one.name for one in view.waves.open(Origin.FOUND)] == ["found"]
        assert [one.name for one, _ in view.waves.of_node("a")] == ["to-r595", "found"]


def test_nothing_is_written_where_nothing_changed(catalogue: Catalogue) -> None:
    before = begin(catalogue, wave(node("a")))
    entries = len(told(catalogue))
    with catalogue.edit() as draft:
        draft.waves.change(before, before)
        assert draft.waves.wave("to-r595").version == 1
    assert len(told(catalogue)) == entries


def test_a_version_that_a_webhook_took_is_never_set_back(catalogue: Catalogue) -> None:
    begin(catalogue, wave(node("a")))
    for version in (3, 2):
        with catalogue.edit() as draft:
            draft.waves.notified("to-r595", version)
    with catalogue.read() as view:
        assert view.waves.wave("to-r595").notified == 3


def test_a_large_wave_costs_as_many_statements_as_a_small_one(catalogue: Catalogue) -> None:
    counts = []
    for size in (3, 1500):
        begun = wave(*(node(f"{size}-{at:05d}") for at in range(size)), name=f"of-{size}")
        with asked() as statements:
            before = begin(catalogue, begun)
        assert len(before.nodes) == size
        counts.append(len([one for one in statements if "audit_log" not in one]))
    assert counts[1] <= counts[0] + 2  # a driver may send a long insert in pieces
    nodes = [details["nodes"] for action, details in told(catalogue) if action == "wave node held"]
    assert [len(names) for names in nodes if isinstance(names, list)] == [3, 500, 500, 500]
