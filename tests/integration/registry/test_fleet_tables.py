"""The fleet in the catalogue, on both databases: what is taken, what is kept, what is history."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import migrate
from registry.catalogue import Catalogue, open_catalogue
from registry.errors import ConflictError, RecordNotFoundError
from registry.fleet.pruning import Past, prune, remove_batch
from registry.fleet.types import Assignment, DriftIgnore, NodeReport, Taken, WhereFilter
from registry.versions import VersionRange
from tests.factories.fleet import (
    NOON,
    TOKEN,
    beat,
    engine_name,
    enrolled,
    minutes,
    placed,
    report,
)
from tests.fakes.statements import asked


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


def take(catalogue: Catalogue, *reports: NodeReport, at: float = 0) -> list[Taken]:
    with catalogue.edit() as draft:
        return [one.what for one in draft.fleet.take(reports, minutes(at))]


def where(catalogue: Catalogue, **fields: object) -> list[tuple[str, str]]:
    with catalogue.read() as view:
        found = view.fleet.where(WhereFilter(**fields))  # type: ignore[arg-type]
    return [(one.node, one.engine) for one in found]


def test_a_report_is_read_back(catalogue: Catalogue) -> None:
    node = enrolled(catalogue, labels={"zone": "a"})
    document = zlib.compress(b'{"node": "gpu-1"}')
    assert take(catalogue, report(node, 1, [placed("a")], document=document)) == [Taken.RECORDED]
    with catalogue.read() as view:
        found = view.fleet.node("gpu-1")
        assert view.fleet.document(found) == b'{"node": "gpu-1"}'
        assert [one.position for one in view.fleet.devices(found)] == [0, 1]
        assert view.fleet.engines_on(found) == [placed("a")]
        assert view.fleet.profiles()[found.profile or 0]["labels"] == {"pool": "h100", "zone": "a"}
        assert view.fleet.engine_sets() == {
            found.engine_set: [[engine_name("a"), "verified", None]]
        }
    assert (found.sequence, found.seen_at, found.boot_id) == (1, NOON, "boot-1")


def test_the_same_report_again_changes_nothing(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 1, [placed("a")]))
    assert take(catalogue, report(node, 1, [placed("a")]), at=1) == [Taken.KNOWN]
    assert take(catalogue, report(node, 2, [placed("a")]), at=2) == [Taken.KNOWN]
    with catalogue.read() as view:
        assert len(view.fleet.history(node)) == 1
        assert view.fleet.node("gpu-1").reported_at == NOON


def test_what_comes_late_does_not_undo_what_is_newer(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 5, [placed("new")]))
    assert take(catalogue, report(node, 4, [placed("old")])) == [Taken.STALE]
    assert take(catalogue, report(node, 5, [placed("other")])) == [Taken.STALE]
    assert where(catalogue) == [("gpu-1", engine_name("new"))]


def test_a_heartbeat_never_goes_back(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    with catalogue.edit() as draft:
        draft.fleet.beat([beat(node, 7, minutes(7))])
    with catalogue.edit() as draft:
        draft.fleet.beat([beat(node, 6, minutes(6), "other")])
    with catalogue.read() as view:
        found = view.fleet.node("gpu-1")
    assert (found.sequence, found.seen_at, found.boot_id) == (7, minutes(7), "boot-1")


def test_what_ran_at_a_time_is_known_with_the_driver_of_that_time(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 1, [placed("a")], driver="570.1.1"), at=0)
    take(
        catalogue,
        report(node, 2, [placed("a"), placed("b", "/engines/n")], driver="570.1.1"),
        at=10,
    )
    take(catalogue, report(node, 3, [placed("b", "/engines/n")], driver="580.1.1"), at=20)

    both = [("gpu-1", engine_name("a")), ("gpu-1", engine_name("b"))]
    assert where(catalogue, at=minutes(-1)) == []
    assert where(catalogue, at=minutes(5)) == both[:1]
    assert where(catalogue, at=minutes(10)) == both
    assert where(catalogue, at=minutes(20)) == both[1:]
    assert where(catalogue, at=minutes(10), driver=VersionRange.parse("R570")) == both
    assert where(catalogue, driver=VersionRange.parse("R570")) == []
    with catalogue.read() as view:
        drivers = [(one.driver, one.until) for one in view.fleet.history(node)]
    assert drivers == [("580.1.1", None), ("570.1.1", minutes(20))]


def test_what_did_not_change_keeps_its_beginning(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 1, [placed("a")], driver="570.1.1"), at=0)
    take(catalogue, report(node, 2, [placed("a")], driver="580.1.1"), at=10)
    with catalogue.read() as view:
        (found,) = view.fleet.where(WhereFilter())
    assert (found.since, found.driver) == (NOON, "580.1.1")


def test_engines_are_found_by_every_handle(catalogue: Catalogue) -> None:
    first, second = enrolled(catalogue, "gpu-1"), enrolled(catalogue, "gpu-2", simulated=True)
    take(
        catalogue,
        report(first, 1, [placed("a")]),
        report(second, 1, [placed("b")], driver="595.1.1"),
    )
    only_second = [("gpu-2", engine_name("b"))]
    assert where(catalogue, node="gpu-2") == only_second
    assert where(catalogue, engines=(engine_name("b"),)) == only_second
    assert where(catalogue, gpu_uuid="GPU-gpu-2-1") == only_second
    assert where(catalogue, driver=VersionRange.parse(">=590")) == only_second
    assert where(catalogue, simulated=True) == only_second
    assert where(catalogue, limit=1) == [("gpu-1", engine_name("a"))]
    assert where(catalogue, engines=()) == []


def test_nodes_that_are_alike_are_one_state(catalogue: Catalogue) -> None:
    nodes = [enrolled(catalogue, f"gpu-{at}") for at in range(4)]
    take(catalogue, *(report(one, 1, [placed("a")]) for one in nodes[:3]), report(nodes[3], 1))
    with catalogue.read() as view:
        states = view.fleet.states()
        members = view.fleet.members()
    assert sorted(one.nodes for one in states) == [1, 3]
    largest = max(states, key=lambda one: one.nodes)
    alike = (largest.profile, largest.engine_set)
    assert [one[0] for one in members if one[1:3] == alike] == ["gpu-0", "gpu-1", "gpu-2"]


def test_many_reports_take_as_many_statements_as_a_few(catalogue: Catalogue) -> None:
    nodes = [enrolled(catalogue, f"gpu-{at}") for at in range(40)]
    with asked() as few:
        take(catalogue, *(report(one, 1, [placed("a")]) for one in nodes[:2]))
    with asked() as many:
        take(catalogue, *(report(one, 1, [placed("a")]) for one in nodes[2:]))
    assert len(many) <= len(few)


def test_a_retired_node_is_heard_no_more_and_its_history_stays(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 1, [placed("a")]))
    with catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", minutes(10))
    assert take(catalogue, report(node, 2, [placed("b")]), at=11) == [Taken.GONE]
    assert where(catalogue) == []
    assert where(catalogue, at=minutes(5)) == [("gpu-1", engine_name("a"))]
    with catalogue.read() as view:
        assert (view.fleet.nodes(), view.fleet.states()) == ([], [])
        assert [one.name for one in view.fleet.nodes(retired=True)] == ["gpu-1"]


def test_a_node_enrolled_anew_starts_over(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 9, [placed("a")]))
    with pytest.raises(ConflictError, match="enrolled already"):
        enrolled(catalogue)
    with catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", minutes(1))
    again = enrolled(catalogue)
    assert take(catalogue, report(again, 1, [placed("a")]), at=2) == [Taken.RECORDED]
    assert where(catalogue) == [("gpu-1", engine_name("a"))]
    with catalogue.read() as view:
        assert [one.until for one in view.fleet.history(again)] == [None, minutes(1)]


def test_what_was_simulated_stays_so_though_its_name_is_a_real_nodes_now(
    catalogue: Catalogue,
) -> None:
    profile = {"driver": "580.95.05", "labels": {}, "simulated": True}
    take(catalogue, report(enrolled(catalogue, simulated=True), 1, [placed("a")], profile=profile))
    with catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", minutes(1))
    again = enrolled(catalogue, simulated=False)
    real = {**profile, "simulated": False}
    take(catalogue, report(again, 1, [placed("b")], profile=real), at=2)
    with catalogue.read() as view:
        before, now = (view.fleet.where(WhereFilter(at=minutes(one))) for one in (0.5, 3))
    assert [(one.engine, one.simulated) for one in (*before, *now)] == [
        (engine_name("a"), True), (engine_name("b"), False),
    ]  # fmt: skip
    assert where(catalogue, at=minutes(0.5), simulated=True) == [("gpu-1", engine_name("a"))]
    assert where(catalogue, at=minutes(0.5), simulated=False) == []
    assert where(catalogue, simulated=False) == [("gpu-1", engine_name("b"))]


def test_new_labels_ask_for_a_new_report(catalogue: Catalogue) -> None:
    node = enrolled(catalogue, labels={"zone": "a"})
    take(catalogue, report(node, 1))
    with catalogue.edit() as draft:
        draft.fleet.relabel("gpu-1", {"zone": None, "rack": "7"})
    assert take(catalogue, report(node, 2)) == [Taken.RECORDED]
    with catalogue.read() as view:
        (profile,) = view.fleet.profiles().values()
    assert profile["labels"] == {"pool": "h100", "rack": "7"}


def test_a_node_that_is_not_there_is_said_so(catalogue: Catalogue) -> None:
    with catalogue.edit() as draft, pytest.raises(RecordNotFoundError):
        draft.fleet.retire("gpu-9", NOON)
    with catalogue.read() as view, pytest.raises(RecordNotFoundError):
        view.fleet.node("gpu-9")


def test_assignments_are_there_once(catalogue: Catalogue) -> None:
    one = Assignment("pool=h100", "m", "prod", "anna", NOON)
    with catalogue.edit() as draft:
        assert draft.fleet.assign(one)
        assert not draft.fleet.assign(one)
    with catalogue.read() as view:
        assert view.fleet.assignments() == [one]
    with catalogue.edit() as draft:
        draft.fleet.unassign("pool=h100", "m", "prod")
    with catalogue.edit() as draft, pytest.raises(RecordNotFoundError):
        draft.fleet.unassign("pool=h100", "m", "prod")


def test_an_assignment_names_another_image_or_none_and_the_log_says_who(
    catalogue: Catalogue,
) -> None:
    one = Assignment("pool=h100", "m", "prod", "anna", NOON, "x:1", NOON)
    later = replace(one, container="x:2", container_at=minutes(5), actor="ben")
    with catalogue.edit() as draft:
        assert draft.fleet.assign(one)
        assert not draft.fleet.run_in(replace(one, container_at=minutes(1)))
        assert draft.fleet.assignments() == [one]
        assert draft.fleet.run_in(later)
    with catalogue.read() as view:
        assert view.fleet.assignments() == [replace(later, actor="anna")]
        entry = list(view.audit_entries())[-1]
    assert (entry.actor, entry.action, json.loads(entry.details)["container"]) == (
        "ben", "assign container", "x:2",
    )  # fmt: skip
    with catalogue.edit() as draft:
        assert draft.fleet.run_in(replace(one, container=None, container_at=None))
        assert draft.fleet.assignments()[0].container is None
        with pytest.raises(RecordNotFoundError, match="no such assignment"):
            draft.fleet.run_in(replace(one, channel="canary"))


def test_nodes_are_told_apart_by_the_images_in_which_their_engines_run(
    catalogue: Catalogue,
) -> None:
    nodes = [enrolled(catalogue, f"gpu-{at}") for at in range(4)]
    told: list[tuple[str | None, ...]] = [("x:1",), ("x:1",), (None, "x:1"), ()]
    take(
        catalogue,
        *(
            report(node, 1, [placed("a", running="declared", images=images)])
            for node, images in zip(nodes, told, strict=True)
        ),
    )
    a = engine_name("a")
    with catalogue.read() as view:
        sets = [view.fleet.node(one.name).engine_set or 0 for one in nodes]
        images = view.fleet.images(sets)
        assert [images.get(one) for one in sets] == [
            [(a, "x:1")], [(a, "x:1")], [(a, None), (a, "x:1")], None,
        ]  # fmt: skip
        assert sorted(one.nodes for one in view.fleet.states()) == [1, 1, 2]
        assert {str(one) for one in view.fleet.engine_sets().values()} == {
            str([[a, "verified", "declared"]])
        }


def test_another_image_ends_a_placement_and_begins_the_next(catalogue: Catalogue) -> None:
    node = enrolled(catalogue)
    first, second = (placed("a", running="declared", images=(image,)) for image in ("x:1", "x:2"))
    for number, serving in enumerate((first, second, second)):
        take(catalogue, report(node, number + 1, [serving]), at=number)
    with catalogue.read() as view:
        assert view.fleet.engines_on(node) == [second]
        asked = [("gpu-1", engine_name("a")), ("gpu-2", "b")]
        spans = sorted(view.fleet.engine_spans(asked), key=lambda one: one.since)
        assert [(one.images, one.since, one.until) for one in spans] == [
            (["x:1"], minutes(0), minutes(1)), (["x:2"], minutes(1), None),
        ]  # fmt: skip
        assert [one.since for one in view.fleet.profile_spans(["gpu-1", "gpu-2"])] == [minutes(0)]
        (before,) = view.fleet.where(WhereFilter(at=NOON))
    assert before.until == minutes(1)


def test_the_last_rule_about_the_same_drift_counts(catalogue: Catalogue) -> None:
    rule = DriftIgnore("driver", "pool=h100", "canary", "anna", None, NOON)
    later = DriftIgnore("driver", "pool=h100", "longer", "ben", minutes(60), NOON)
    with catalogue.edit() as draft:
        draft.fleet.ignore(rule)
        draft.fleet.ignore(later)
    with catalogue.read() as view:
        assert view.fleet.ignores() == [later]
    with catalogue.edit() as draft:
        draft.fleet.heed("driver", "pool=h100")
    with catalogue.edit() as draft, pytest.raises(RecordNotFoundError):
        draft.fleet.heed("driver", "pool=h100")


def test_what_people_change_is_in_the_audit_log_and_what_nodes_say_is_not(
    catalogue: Catalogue,
) -> None:
    node = enrolled(catalogue)
    take(catalogue, report(node, 1))
    with catalogue.edit(actor="ben") as draft:
        draft.fleet.enroll_simulated({"sim-1": TOKEN, "sim-2": TOKEN}, labels={}, at=NOON)
        draft.fleet.retire("gpu-1", NOON)
    with catalogue.read() as view:
        entries = [(one.actor, one.action, one.subject) for one in view.audit_entries()]
        assert [one.name for one in view.fleet.nodes()] == ["sim-1", "sim-2"]
    assert entries == [
        ("anna", "node enroll", "gpu-1"),
        ("ben", "node enroll", "2 nodes"),
        ("ben", "node retire", "gpu-1"),
    ]
    assert TOKEN not in str(entries)


def aged(catalogue: Catalogue) -> None:
    """Two nodes: one changed engine and driver at 10 and at 20 minutes, one has what it had."""
    one, other = enrolled(catalogue), enrolled(catalogue, "gpu-2")
    take(catalogue, report(one, 1, [placed("a")]), report(other, 1, [placed("a")]))
    take(catalogue, report(one, 2, [placed("b")], driver="590.1"), at=10)
    take(catalogue, report(one, 3, [placed("c")], driver="595.1"), at=20)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_what_ended_before_the_horizon_is_forgotten_and_nothing_that_is_so_now(
    catalogue: Catalogue, batch: int
) -> None:
    aged(catalogue)
    with catalogue.read() as view:
        assert (view.fleet.past(minutes(15)), view.fleet.horizon()) == (Past(1, 1), None)
        assert view.fleet.past(minutes(20)).rows == 4
    before = where(catalogue)
    asked_then = {at: where(catalogue, at=minutes(at)) for at in (15, 25)}

    assert prune(catalogue, minutes(15), actor="anna", batch=batch) == Past(1, 1)

    assert where(catalogue) == before
    assert {at: where(catalogue, at=minutes(at)) for at in (15, 25)} == asked_then
    with catalogue.read() as view:
        assert (view.fleet.past(minutes(15)).rows, view.fleet.horizon()) == (0, minutes(15))
        assert [one.driver for one in view.fleet.history(view.fleet.node("gpu-1"))] == [
            "595.1", "590.1",
        ]  # fmt: skip
    assert prune(catalogue, minutes(20), actor="anna", batch=batch) == Past(1, 1)
    with catalogue.read() as view:
        assert view.fleet.horizon() == minutes(20)
    prune(catalogue, minutes(5), actor="anna")
    with catalogue.read() as view:
        assert view.fleet.horizon() == minutes(20)  # it never comes back


def test_a_prune_takes_one_batch_in_a_unit_of_work_and_says_the_horizon_first(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(catalogue)
    left = iter([remove_batch])

    def ends(*arguments: Any) -> Any:  # noqa: ANN401 - as the real one
        return next(left)(*arguments)

    monkeypatch.setattr("registry.fleet.records.remove_batch", ends)
    with pytest.raises(StopIteration):
        prune(catalogue, minutes(30), actor="anna", batch=1)
    monkeypatch.undo()
    with catalogue.read() as view:
        assert (view.fleet.horizon(), view.fleet.past(minutes(30)).rows) == (minutes(30), 3)
    assert prune(catalogue, minutes(30), actor="anna").rows == 3
