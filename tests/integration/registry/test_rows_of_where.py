"""What a row of `where` shows of a node stands in one place, and is what the other places say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from registry import migrate
from registry.catalogue import Catalogue, connect, open_catalogue, parse_url
from registry.fleet import reports
from registry.fleet.pruning import prune
from registry.fleet.tables import HeartbeatRow, NodeRow, ProfileRow
from registry.fleet.types import NodeReport, WhereFilter
from tests.factories.fleet import beat, engine_name, enrolled, minutes, placed, report
from tests.fakes.statements import asked


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgresql_url")
        return found
    return f"sqlite:///{tmp_path}/catalogue.db"


@pytest.fixture
def catalogue(url: str) -> Iterator[Catalogue]:
    migrate.upgrade(url)
    opened = open_catalogue(url)
    yield opened
    opened.close()


def take(catalogue: Catalogue, *told: NodeReport) -> None:
    with catalogue.edit() as draft:
        draft.fleet.take(told, minutes(0))


def beside(url: str) -> dict[str, tuple[bool, str | None]]:
    """Returns what stands with the heartbeats, once it was held against nodes and profiles."""
    kept = select(HeartbeatRow.name, HeartbeatRow.simulated, HeartbeatRow.driver)
    said = (
        select(NodeRow.name, NodeRow.simulated, ProfileRow.driver)
        .join(HeartbeatRow, HeartbeatRow.node_id == NodeRow.id)
        .outerjoin(ProfileRow, ProfileRow.id == NodeRow.profile_id)
    )
    engine = connect(parse_url(url))
    with engine.connect() as connection:
        rows = connection.execute(kept.order_by(HeartbeatRow.node_id)).all()
        assert rows == connection.execute(said.order_by(NodeRow.id)).all()
    engine.dispose()
    return {row.name: (row.simulated, row.driver) for row in rows}


def test_what_stands_with_a_heartbeat_follows_the_node(catalogue: Catalogue, url: str) -> None:
    node = enrolled(catalogue)
    with catalogue.edit() as draft:
        draft.fleet.enroll_simulated({"sim-1": "0" * 64}, labels={}, at=minutes(0))
    assert beside(url) == {"gpu-1": (False, None), "sim-1": (True, None)}
    take(catalogue, report(node, 1, [placed("a")], driver="570.1.1"))
    assert beside(url)["gpu-1"] == (False, "570.1.1")
    take(catalogue, report(node, 2, [placed("b")], driver="570.1.1"))
    take(catalogue, report(node, 3, [placed("b")], driver="580.1.1"))
    assert beside(url)["gpu-1"] == (False, "580.1.1")
    with catalogue.edit() as draft:
        draft.fleet.renew("gpu-1", "1" * 64)
    assert beside(url)["gpu-1"] == (False, "580.1.1")
    with catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", minutes(1))
    assert beside(url)["gpu-1"] == (False, None)
    enrolled(catalogue, simulated=True)
    assert beside(url)["gpu-1"] == (True, None)


def test_the_engines_of_now_are_found_without_nodes_and_profiles(catalogue: Catalogue) -> None:
    take(catalogue, report(enrolled(catalogue), 1, [placed("a")]))
    with catalogue.read() as view, asked() as statements:
        (found,) = view.fleet.where(WhereFilter(engine=engine_name("a")))
    assert (found.node, found.driver) == ("gpu-1", "580.95.05")
    statement = statements[-1]  # SQLite notes the beginning, too
    assert "node_heartbeats" in statement
    assert "nodes" not in statement.replace("node_", "")
    assert "node_profiles" not in statement


def test_rows_come_by_node_and_then_by_path(catalogue: Catalogue) -> None:
    names = ["gpu-b", "gpu-10", "gpu-a"]
    for name in names:
        engines = [placed("a", "/engines/2"), placed("b", "/engines/1"), placed("c", "/engines/10")]
        take(catalogue, report(enrolled(catalogue, name), 1, engines))
    with catalogue.read() as view:
        found = [(one.node, one.path) for one in view.fleet.where(WhereFilter())]
        first = [(one.node, one.path) for one in view.fleet.where(WhereFilter(limit=4))]
    assert found == sorted(found)
    assert len(found) == 9
    assert first == found[:4]


def test_members_come_by_name_with_when_they_were_heard(catalogue: Catalogue) -> None:
    for name, at in (("gpu-b", 3), ("gpu-10", 2), ("gpu-a", 1)):
        take(catalogue, report(enrolled(catalogue, name), 1, [placed("a")], at=minutes(at)))
    enrolled(catalogue, "gpu-silent")
    retired = enrolled(catalogue, "gpu-gone")
    take(catalogue, report(retired, 1))
    with catalogue.edit() as draft:
        draft.fleet.retire("gpu-gone", minutes(4))
    with catalogue.read() as view:
        found = view.fleet.members()
        states = {(one.profile, one.engine_set) for one in view.fleet.states()}
    assert {one[1:3] for one in found} == states
    assert [(name, heard) for name, _, _, heard in found] == [
        ("gpu-10", minutes(2)), ("gpu-a", minutes(1)), ("gpu-b", minutes(3)),
    ]  # fmt: skip


def test_when_the_history_was_pruned_is_found_by_an_index(catalogue: Catalogue, url: str) -> None:
    prune(catalogue, minutes(5), actor="anna")
    with catalogue.read() as view, asked() as statements:
        assert view.fleet.horizon() == minutes(5)
    statement = statements[-1]  # SQLite notes the beginning, too
    engine = connect(parse_url(url))
    with engine.connect() as connection:
        if url.startswith("postgresql"):
            connection.execute(text("SET enable_seqscan = off"))  # a table of two rows is read
            plan = connection.execute(text(f"EXPLAIN {statement}")).all()
        else:
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all()
    engine.dispose()
    assert "ix_audit_log_action" in str(plan)


def test_times_come_back_in_utc_whatever_the_zone_of_the_server(
    postgresql_url: str,
) -> None:
    migrate.upgrade(postgresql_url)
    engine = connect(parse_url(postgresql_url))
    with engine.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET timezone TO 'Asia/Tokyo'"))
    engine.dispose()
    catalogue = open_catalogue(postgresql_url)
    take(catalogue, report(enrolled(catalogue), 1, [placed("a")]))
    with catalogue.read() as view:
        (found,) = view.fleet.where(WhereFilter())
    assert found.since.isoformat().endswith("+00:00")
    catalogue.close()


def test_a_newer_heartbeat_that_is_written_meanwhile_keeps_no_driver_out(
    catalogue: Catalogue, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, locked = enrolled(catalogue), reports._locked

    def meanwhile(session: Session, nodes: Sequence[int]) -> dict[int, reports._Known]:
        found = locked(session, nodes)
        reports.write_beats(session, [beat(node, 9, minutes(1))])
        return found

    monkeypatch.setattr(reports, "_locked", meanwhile)
    take(catalogue, report(node, 8, [placed("a")], driver="570.1.1"))
    assert beside(url)["gpu-1"] == (False, "570.1.1")
    with catalogue.read() as view:
        assert (view.fleet.node("gpu-1").sequence, view.fleet.node("gpu-1").seen_at) == (
            9, minutes(1),
        )  # fmt: skip
