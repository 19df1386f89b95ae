"""Migrations: up, down and up again with data, on both databases, and equal to the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from registry import migrate
from registry.catalogue import connect, open_catalogue, parse_url
from registry.errors import CatalogueOutdatedError, InvalidRecordError, StoreUnavailableError
from registry.fleet.types import Assignment, DriftIgnore, Taken, WhereFilter
from registry.models import REVISION
from registry.publishing import CheckpointPublication
from registry.types import Place, Repair
from registry.waves.types import WaveWork, WorkState
from tests.factories.failures import failure
from tests.factories.fleet import NOON, engine_name, enrolled, minutes, placed, report
from tests.factories.registry import CPU, WEIGHTS, make_workbench
from tests.factories.timing import shelved
from tests.factories.waves import node as wave_node
from tests.factories.waves import wave

IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql_url")
    else:
        yield f"sqlite:///{tmp_path}/catalogue.db"


def fill(url: str, directory: Path) -> None:
    bench = make_workbench(directory, url=url)
    publication = bench.publication()
    repair = Repair("rope-base", "rotary_base", None, 100000, "ModelOpt leaves it out")
    bench.registry.publish_checkpoint(
        CheckpointPublication(publication.directory, WEIGHTS, "w8a16", repairs=(repair,))
    )
    engine = bench.registry.publish_engine(publication)
    bench.record()
    bench.judge(engine)
    bench.end(bench.waive(engine, "verdict-failed", environment=CPU))
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    bench.registry.set_channel("canary", engine.digest, CPU, actor="anna")
    place = Place("canary", engine.model_name, engine.target)
    bench.registry.clear_channel(place, actor="anna")
    node = enrolled(bench.registry.catalogue)
    with bench.registry.catalogue.edit() as draft:
        serving = placed("a", running="declared", images=(IMAGE,))
        draft.fleet.take([report(node, 1, [serving])], NOON)
        draft.fleet.assign(Assignment("pool=h100", "m", "prod", "anna", NOON, IMAGE, NOON))
        draft.fleet.ignore(DriftIgnore("driver", "*", "why", "anna", None, NOON))
    work = WaveWork("sha256:a", "NVIDIA L4", "", "revalidate", WorkState.WAITING, NOON, "m")
    with bench.registry.catalogue.edit() as draft:
        draft.waves.begin(wave(wave_node("gpu-1"), work=(work,)))
        draft.failures.remember(failure(WEIGHTS))
    shelved(bench)
    bench.registry.catalogue.close()


def test_there_is_one_head_and_the_models_name_it() -> None:
    script = ScriptDirectory.from_config(migrate._config())
    assert script.get_heads() == [REVISION]
    assert migrate.head() == REVISION


def test_the_migrated_schema_is_the_models(url: str) -> None:
    migrate.upgrade(url)
    migrate.check(url)


def test_up_down_and_up_again_with_data(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path / "first")
    assert migrate.upgrade(url) == REVISION
    assert migrate.downgrade(url, "base") == "base"
    assert migrate.upgrade(url) == REVISION
    migrate.check(url)
    fill(url, tmp_path / "second")


def test_every_step_is_run_alone_both_ways(url: str) -> None:
    script = ScriptDirectory.from_config(migrate._config())
    steps = [one.revision for one in reversed(list(script.walk_revisions()))]
    for at, step in enumerate(steps):
        assert migrate.upgrade(url, step) == step
        migrate.downgrade(url, steps[at - 1] if at else "base")
        assert migrate.upgrade(url, step) == step


UNSIGNED = """INSERT INTO reference_runs
(digest, model_id, suite, runtime, dtype, size, path, simulated, recorded_at) SELECT
:digest, id, :digest, 'vllm 0.32', 'float32', 1, 'references/x', false, recorded_at FROM models"""


def test_references_without_a_signature_stay_and_are_never_read(url: str, tmp_path: Path) -> None:
    bench = make_workbench(tmp_path, url=url)
    migrate.downgrade(url, "7c1e5a90b3d2")
    engine = connect(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(UNSIGNED), {"digest": str(WEIGHTS)})
    for _ in range(2):
        migrate.upgrade(url)
        signed = bench.record()
        assert bench.registry.references() == [signed]
        migrate.downgrade(url, "7c1e5a90b3d2")
        with engine.begin() as connection:
            left = connection.scalars(text("SELECT digest FROM reference_runs"))
            assert left.all() == [str(WEIGHTS)]
    engine.dispose()
    bench.registry.catalogue.close()


def test_a_channel_that_was_cleared_stays_empty_without_the_mark(url: str, tmp_path: Path) -> None:
    fill(url, tmp_path)
    migrate.downgrade(url, "f3b86d2e9a41")
    migrate.upgrade(url)
    registry = make_workbench(tmp_path / "again", url=url).registry
    assert [one.channel for one in registry.channels()] == ["prod"]
    (move,) = registry.channel_history("canary", "smollm2-135m")
    assert not move.cleared
    registry.catalogue.close()


def test_nodes_that_run_something_are_asked_again_for_the_images_they_told(
    url: str, tmp_path: Path
) -> None:
    fill(url, tmp_path)
    migrate.downgrade(url, "a4d71c9e5b38")
    migrate.upgrade(url)
    registry = make_workbench(tmp_path / "again", url=url).registry
    with registry.catalogue.edit() as draft:
        node = draft.fleet.node("gpu-1")
        assert (node.state, node.engine_set is not None) == (None, True)
        assert draft.fleet.images([node.engine_set or 0]) == {}
        assert [one.container for one in draft.fleet.assignments()] == [None]
        serving = placed("a", running="declared", images=(IMAGE,))
        (taken,) = draft.fleet.take([report(node, 2, [serving])], minutes(1))
    assert taken.what is Taken.RECORDED
    with registry.catalogue.read() as view:
        now = view.fleet.node("gpu-1").engine_set or 0
        assert view.fleet.images([now]) == {now: [(engine_name("a"), IMAGE)]}
    registry.catalogue.close()


def test_a_node_on_which_nothing_runs_is_not_asked_again(url: str, tmp_path: Path) -> None:
    registry = make_workbench(tmp_path, url=url).registry
    node = enrolled(registry.catalogue)
    with registry.catalogue.edit() as draft:
        draft.fleet.take([report(node, 1, [placed("a")])], NOON)
    migrate.downgrade(url, "a4d71c9e5b38")
    migrate.upgrade(url)
    with registry.catalogue.read() as view:
        assert view.fleet.node("gpu-1").state is not None
    registry.catalogue.close()


def test_where_answers_as_before_once_nodes_stand_beside_heartbeats(
    url: str, tmp_path: Path
) -> None:
    registry = make_workbench(tmp_path, url=url).registry
    first, second = (
        enrolled(registry.catalogue, name, simulated=at == 1) for at, name in enumerate("ab")
    )
    enrolled(registry.catalogue, "never-heard")
    with registry.catalogue.edit() as draft:
        draft.fleet.take([report(first, 1, [placed("a")], driver="570.1.1")], NOON)
        draft.fleet.take([report(second, 1, [placed("a")])], NOON)
    with registry.catalogue.read() as view:
        before = view.fleet.where(WhereFilter())
    migrate.downgrade(url, "b8e3d60f29a7")
    migrate.upgrade(url)
    with registry.catalogue.read() as view:
        assert view.fleet.where(WhereFilter()) == before
        heard = [(one.name, one.seen_at) for one in view.fleet.nodes()]
    assert [(one.node, one.simulated, one.driver) for one in before] == [
        ("a", False, "570.1.1"), ("b", True, "580.95.05"),
    ]  # fmt: skip
    assert heard == [("a", NOON), ("b", NOON), ("never-heard", None)]
    registry.catalogue.close()


def test_a_changed_table_is_noticed(url: str) -> None:
    migrate.upgrade(url)
    engine = connect(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE engines ADD COLUMN extra INTEGER"))
    engine.dispose()
    with pytest.raises(CatalogueOutdatedError, match="not those of its revision"):
        migrate.check(url)


def test_an_empty_database_is_not_opened(url: str) -> None:
    with pytest.raises(CatalogueOutdatedError, match="enginekeeper db upgrade"):
        open_catalogue(url)
    with pytest.raises(CatalogueOutdatedError):
        migrate.check(url)
    assert migrate.current(url) is None


def test_a_catalogue_of_a_newer_version_is_not_touched(url: str) -> None:
    migrate.upgrade(url)
    engine = connect(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    engine.dispose()
    with pytest.raises(CatalogueOutdatedError, match="revision ffffffffffff"):
        open_catalogue(url)
    with pytest.raises(CatalogueOutdatedError, match="cannot be migrated"):
        migrate.upgrade(url)


def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    engine = connect(parse_url(url), foreign_keys=False)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE channel_moves (id INTEGER)"))
    with pytest.raises(StoreUnavailableError, match="channel_moves"):
        migrate.upgrade(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE channel_moves"))
    engine.dispose()
    assert migrate.upgrade(url) == REVISION


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://root@host/db", "sqlite://", "postgresql://host", "file:///x"]
)
def test_what_names_no_catalogue_is_refused(url: str) -> None:
    with pytest.raises(InvalidRecordError, match="not the address of a catalogue"):
        parse_url(url)


def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_catalogue(f"postgresql://postgres:secret@/db?host={tmp_path}")


def test_the_password_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        open_catalogue(f"postgresql://postgres:secret@/db?host={tmp_path}")
    assert "secret" not in str(caught.value)
