"""`pull` and `resolve`: what comes to a node, what does not, and the way back."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.pulls import PullDirectory
from enginekeeper.fleet.runs import record_run
from enginekeeper.orchestration import pulling
from enginekeeper.orchestration.publication import publish
from registry.bundles import write_directory
from registry.errors import GateClosedError, StoreUnavailableError
from registry.transfer import fetch_artifact
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of

Ek = Callable[..., Any]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "tiny"


def put(site: Site, content: bytes, channel: str = "prod") -> Engine:
    """Publishes a qualified engine and puts it into a channel."""
    (variant,) = variants_of(site.directory)
    engine = site.publish(variant, content)
    site.judge(engine, variant)
    site.bench.registry.set_channel(channel, engine.digest, site.bench.environment, actor="anna")
    return engine


@pytest.fixture
def engine(site: Site) -> Engine:
    return put(site, b"first")


def loaded(into: Path) -> bytes:
    return (into / "current" / "engine" / "graph.pt2").read_bytes()


def test_resolve_names_the_engine_for_this_node(ek: Ek, engine: Engine) -> None:
    said = ek("resolve", "tiny", "--channel", "prod", "--json")
    assert (said.code, said.json["engine"]) == (0, str(engine.digest))
    assert said.json == ek("channel", "resolve", "tiny", "prod", "--json").json
    assert ek("resolve", "tiny", "--channel", "canary").code == 4


def test_what_the_channel_means_is_pulled_and_can_be_started_offline(
    ek: Ek, engine: Engine, into: Path
) -> None:
    said = ek("pull", "tiny", "--channel", "prod", "--into", into, "--json")
    assert (said.code, said.json["engine"]) == (0, str(engine.digest))
    assert (said.json["current"], said.json["previous"]) == (engine.digest.short, None)
    assert said.json["offline"]["outcome"] == "open"
    assert loaded(into) == b"first"
    for where in ([into / "current"], ["--model", "tiny", "--channel", "prod"]):
        checked = ek("run-check", *where, "--offline", "--json")
        assert (checked.code, checked.json["source"]) == (0, "evidence")
        assert checked.json["directory"] == str(into / "engines" / engine.digest.short / "engine")
    (row,) = ek("where", "--json").json
    assert (row["engine"], row["bytes"]) == (engine.digest.short, "verified")


def test_the_next_one_is_switched_to_and_the_one_before_is_kept(
    ek: Ek, site: Site, engine: Engine, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    newer = put(site, b"second")
    said = ek("pull", "tiny", "--channel", "prod", "--into", into, "--json").json
    assert (said["current"], said["previous"]) == (newer.digest.short, engine.digest.short)
    assert loaded(into) == b"second"

    back = ek("pull", "--rollback", "--into", into, "--json")
    assert (back.code, back.json["current"], loaded(into)) == (0, engine.digest.short, b"first")


def test_the_same_again_changes_nothing(ek: Ek, engine: Engine, into: Path) -> None:
    first = ek("pull", "tiny", "--channel", "prod", "--into", into, "--json").json
    link = os.lstat(into / "engines" / engine.digest.short / "engine" / "graph.pt2")
    assert ek("pull", "tiny", "--channel", "prod", "--into", into, "--json").json == first
    again = os.lstat(into / "engines" / engine.digest.short / "engine" / "graph.pt2")
    assert (again.st_ino, again.st_mtime_ns) == (link.st_ino, link.st_mtime_ns)


def test_new_verdicts_come_with_the_next_pull(
    ek: Ek, site: Site, engine: Engine, into: Path, tmp_path: Path
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, summary="once more")
    ek("pull", engine.digest.short, "--into", into)
    evidence = json.loads((into / "current" / "evidence.json").read_text())
    assert len(evidence["verdicts"]) == 2


def test_a_closed_gate_pulls_nothing(ek: Ek, site: Site, engine: Engine, tmp_path: Path) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL)
    into = tmp_path / "into"
    assert ek("pull", "tiny", "--channel", "prod", "--into", into).code == 5
    assert ek("pull", engine.digest.short, "--into", into, "--dry-run").code == 5
    assert not into.exists()


def test_the_way_back_is_closed_to_an_engine_that_failed_since(
    ek: Ek, site: Site, engine: Engine, into: Path, tmp_path: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    put(site, b"second")
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL)
    assert ek("pull", "--rollback", "--into", into).code == 5
    assert loaded(into) == b"second"


def test_without_one_before_there_is_no_way_back(ek: Ek, engine: Engine, into: Path) -> None:
    assert ek("pull", "--rollback", "--into", into).code == 4
    ek("pull", engine.digest.short, "--into", into)
    assert ek("pull", "--rollback", "--into", into).code == 4


def test_older_ones_go_unless_a_process_runs_them(
    ek: Ek, site: Site, engine: Engine, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    running = into / "engines" / engine.digest.short / "engine"
    record_run(site.bench.settings.home, engine.digest, running.resolve())
    second = put(site, b"second")
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    put(site, b"third")
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    put(site, b"fourth")
    said = ek("pull", "tiny", "--channel", "prod", "--into", into, "--json").json
    assert said["removed"] == [second.digest.short]
    assert running.is_dir()
    assert len(ek("where", "--json").json) == 3


def test_where_nobody_can_tell_what_runs_nothing_goes_and_the_switch_is_made(
    ek: Ek, site: Site, engine: Engine, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    runs = site.bench.settings.home / "runs"
    runs.mkdir(parents=True)
    (runs / "damaged.json").write_text("{")
    put(site, b"second")
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    put(site, b"third")
    said = ek("pull", "tiny", "--channel", "prod", "--into", into, "--json")
    assert (said.code, said.json["removed"]) == (0, [])
    assert "no engine is removed" in said.err
    assert (loaded(into), (into / "engines" / engine.digest.short).is_dir()) == (b"third", True)


def test_where_older_ones_lay_is_forgotten_in_the_catalogue_too(
    ek: Ek, site: Site, engine: Engine, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    newer = [put(site, content) for content in (b"second", b"third")]
    for one in newer:
        ek("pull", one.digest.short, "--into", into)
    assert not (into / "engines" / engine.digest.short).exists()
    with site.bench.registry.catalogue.read() as view:
        assert {one.engine for one in view.placements()} == {one.digest for one in newer}


def test_what_was_closed_during_the_download_is_not_switched_to(
    ek: Ek, site: Site, engine: Engine, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    newer = put(site, b"second")

    def slow(*arguments: Any) -> None:  # noqa: ANN401 - those of `write_directory`
        write_directory(*arguments)
        ek("engine", "quarantine", newer.digest.short, "--reason", "leaks", "--yes")

    monkeypatch.setattr(pulling, "write_directory", slow)
    said = ek("pull", newer.digest.short, "--into", into)
    assert (said.code, loaded(into)) == (5, b"first")
    assert "closed during the download" in said.err
    assert [path.name for path in (into / "engines").iterdir()] == [engine.digest.short]
    assert [one["engine"] for one in ek("where", "--json").json] == [engine.digest.short]


def test_the_current_one_stays_whatever_became_of_it(
    ek: Ek, site: Site, engine: Engine, into: Path
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    wish = pulling.wanted(site.bench, engine.digest.short, None, into)
    ek("engine", "revoke", engine.digest.short, "--reason", "leaks", "--yes")
    with pytest.raises(GateClosedError):
        pulling.pull(site.bench, wish)
    assert loaded(into) == b"first"
    assert ek("run-check", into / "current", "--offline").code == 5  # its evidence says so now


Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's own


def test_too_little_room_is_said_before_anything_comes(
    ek: Ek, engine: Engine, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - 1000, 1000))
    said = ek("pull", engine.digest.short, "--into", into, "--json")
    assert (said.code, json.loads(said.err)["error"]) == (10, "DiskFullError")
    assert not (into / "engines").exists()


def test_an_interrupted_pull_leaves_the_old_one_and_goes_on(
    ek: Ek, site: Site, engine: Engine, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    newer = put(site, b"second")

    def broken(*_arguments: object) -> None:
        raise StoreUnavailableError("the store went away")

    with monkeypatch.context() as patch:
        patch.setattr("registry.bundles.fetch_artifact", broken)
        assert ek("pull", newer.digest.short, "--into", into).code == 10
    assert loaded(into) == b"first"
    monkeypatch.setattr("registry.bundles.fetch_artifact", fetch_artifact)
    assert ek("pull", newer.digest.short, "--into", into).code == 0
    assert (loaded(into), PullDirectory(into).way_back().previous) == (
        b"second", engine.digest.short,
    )  # fmt: skip


def test_damaged_files_are_brought_anew(ek: Ek, engine: Engine, into: Path) -> None:
    ek("pull", engine.digest.short, "--into", into)
    file = into / "current" / "engine" / "graph.pt2"
    file.chmod(0o644)
    file.write_bytes(b"other")
    assert ek("run-check", into / "current").code == 11
    said = ek("pull", engine.digest.short, "--into", into)
    assert (said.code, loaded(into)) == (0, b"first")
    assert "brought anew" in said.err


def test_damaged_files_are_brought_anew_beside_those_of_an_interrupted_pull(
    ek: Ek, engine: Engine, into: Path
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    left = into / "engines" / f".{engine.digest.short}.damaged" / "engine"
    left.mkdir(parents=True)  # it was killed before it removed this
    (left / "graph.pt2").write_bytes(b"other")
    (into / "current" / "engine" / "graph.pt2").chmod(0o644)
    (into / "current" / "engine" / "graph.pt2").write_bytes(b"another")
    assert ek("pull", engine.digest.short, "--into", into).code == 0
    assert (loaded(into), left.exists()) == (b"first", False)


def test_a_stripped_engine_of_which_no_verdict_names_the_refitted_bytes_does_not_stay(
    ek: Ek, site: Site, into: Path, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    built = site.built(variant, b"stripped")
    config = {"version": "1.2.1", "build_config": {"use_strip_plan": True}}
    (built.directory / "config.json").write_text(json.dumps(config))
    engine = publish(site.bench, built, variant)
    site.judge(engine, variant)
    said = ek("pull", engine.digest.short, "--into", into, "--json")
    assert (said.code, "no verdict says" in said.err) == (11, True)
    assert not (into / "current").exists()
    assert list((into / "engines").iterdir()) == []


def test_a_stripped_engine_that_nobody_refitted_here_is_not_started(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    built = site.built(variant, b"stripped")
    config = {"version": "1.2.1", "build_config": {"use_strip_plan": True}}
    (built.directory / "config.json").write_text(json.dumps(config))
    engine = publish(site.bench, built, variant)
    site.judge(engine, variant)
    ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "fetched")
    ek("engine", "export", engine.digest.short, "--to", tmp_path / "exported")
    for where in (("fetched",), ("exported",), ("exported", "--offline")):
        said = ek("run-check", tmp_path / where[0], *where[1:])
        assert (said.code, "no weights in it" in said.err) == (4, True), where


def test_a_directory_that_is_somebody_elses_is_left_alone(
    ek: Ek, engine: Engine, into: Path
) -> None:
    (into / "current").mkdir(parents=True)
    assert ek("pull", engine.digest.short, "--into", into).code == 3
    assert sorted(path.name for path in into.iterdir()) == [".lock", "current"]


@pytest.mark.parametrize("arguments", [(), ("tiny", "--rollback")])
def test_what_is_to_be_pulled_must_be_said(ek: Ek, into: Path, arguments: tuple[str, ...]) -> None:
    assert ek("pull", *arguments, "--into", into).code == 2


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_names_that_lead_elsewhere_are_refused(ek: Ek, into: Path, name: str) -> None:
    assert ek("pull", name, "--channel", "prod", "--into", into).code == 3
    assert ek("pull", "tiny", "--channel", name, "--into", into).code == 3
    assert not into.exists()


def test_a_killed_switch_is_the_old_one_or_the_new_one(
    ek: Ek, engine: Engine, site: Site, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ek("pull", engine.digest.short, "--into", into)
    newer = put(site, b"second")

    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == "current":
            raise KeyboardInterrupt
        replace(source, target)

    wish = pulling.wanted(site.bench, newer.digest.short, None, into)
    with monkeypatch.context() as patch:
        patch.setattr("enginekeeper.fleet.pulls.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            pulling.pull(site.bench, wish)
    assert loaded(into) == b"first"
    assert ek("pull", newer.digest.short, "--into", into).code == 0
    assert PullDirectory(into).way_back().previous == engine.digest.short


def test_a_directory_is_of_one_model(ek: Ek, engine: Engine, into: Path) -> None:
    of_other = "0" * 12
    PullDirectory(into).switch(of_other, model="other", channel="prod")
    for how in ([], ["--dry-run"], ["--channel", "prod"]):
        name = "tiny" if "--channel" in how else engine.digest.short
        said = ek("pull", name, "--into", into, *how)
        assert (said.code, "another model" in said.err) == (3, True)
    assert PullDirectory(into).current_name() == of_other


@pytest.mark.usefixtures("engine")
def test_what_was_pulled_for_another_model_is_not_started(ek: Ek, into: Path) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    state = json.loads((into / "pull.json").read_text())
    (into / "pull.json").write_text(json.dumps({**state, "model": "other"}))
    said = ek("run-check", "--model", "tiny", "--channel", "prod")
    assert (said.code, "other: prod" in said.err) == (3, True)


@pytest.mark.usefixtures("engine")
def test_what_was_pulled_for_another_channel_is_not_started(ek: Ek, site: Site, into: Path) -> None:
    put(site, b"second", channel="canary")
    of_prod, of_canary = (["--model", "tiny", "--channel", one] for one in ("prod", "canary"))
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    ek("pull", "tiny", "--channel", "canary", "--into", into)
    said = ek("run-check", *of_prod)
    assert (said.code, "tiny: canary" in said.err) == (3, True)
    assert ek("run-check", *of_canary).code == 0

    ek("pull", "--rollback", "--into", into)
    assert (ek("run-check", *of_prod).code, ek("run-check", *of_canary).code) == (0, 3)


@pytest.mark.usefixtures("engine")
def test_an_engine_that_was_named_itself_is_started_for_the_channel(
    ek: Ek, site: Site, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    newer = put(site, b"second", channel="canary")
    ek("pull", newer.digest.short, "--into", into)
    assert ek("run-check", "--model", "tiny", "--channel", "prod").code == 0


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "damage", ["{", '{"model": 1}', '{"model": "tiny", "current": "../../x", "previous": null}']
)
def test_a_damaged_record_of_the_last_pull_is_mended_by_pulling_again(
    ek: Ek, into: Path, damage: str
) -> None:
    asked = ["--model", "tiny", "--channel", "prod"]
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    (into / "pull.json").write_text(damage)
    assert (ek("pull", "--rollback", "--into", into).code, ek("run-check", *asked).code) == (3, 3)
    assert ek("pull", "tiny", "--channel", "prod", "--into", into).code == 0
    assert ek("run-check", *asked).code == 0


@pytest.mark.usefixtures("engine")
def test_a_way_back_that_leads_elsewhere_is_not_gone(ek: Ek, into: Path) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    state = json.loads((into / "pull.json").read_text())
    (into / "pull.json").write_text(json.dumps({**state, "previous": "../../elsewhere"}))
    said = ek("pull", "--rollback", "--into", into)
    assert (said.code, "pull.json" in said.err) == (3, True)


def test_a_link_among_the_files_of_an_engine_is_wrong_bytes(
    ek: Ek, engine: Engine, into: Path
) -> None:
    ek("pull", "tiny", "--channel", "prod", "--into", into)
    file = into / "engines" / engine.digest.short / "engine" / "graph.pt2"
    file.rename(into / "elsewhere")
    file.symlink_to(into / "elsewhere")
    assert ek("run-check", into / "current").code == 11
    (into / "engines" / engine.digest.short / "evidence.json").unlink()
    assert ek("run-check", into / "current" / "engine").code == 11
