"""The commands that search, explain, back up and restore the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.orchestration import planning
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of, write_spec
from tests.factories.checkpoints import SOURCE
from tests.factories.registry import H100, WEIGHTS

Ek = Callable[..., Any]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(path=SOURCE, digest=WEIGHTS)
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: here)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return site.publish(variants_of(tmp_path)[0])


def short(said: Any) -> list[str]:  # noqa: ANN401 - what a command said
    return [row["engine"] for row in said.json]


def test_engines_are_listed_by_qualification_and_driver(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    variant = variants_of(tmp_path)[0]
    assert short(ek("engine", "list", "--qualified", "--json")) == []
    site.judge(engine, variant, Result.PASS, H100)
    assert short(ek("engine", "list", "--driver-branch", "R580", "--json")) == [engine.digest.short]
    assert short(ek("engine", "list", "--driver-branch", "R570", "--json")) == []
    site.judge(engine, variant, Result.FAIL, H100)
    asked = ("engine", "list", "--driver-branch", ">=570,<590", "--json")
    assert short(ek(*asked)) == [engine.digest.short]
    assert short(ek(*asked, "--qualified")) == []


def test_an_engine_for_a_cpu_was_built_for_no_cuda(ek: Ek, engine: Engine) -> None:
    assert short(ek("engine", "list", "--limit", "1", "--json")) == [engine.digest.short]
    assert short(ek("engine", "list", "--cuda", ">=0", "--json")) == []
    assert short(ek("engine", "list", "--compute-capability", "9.0", "--json")) == []


@pytest.mark.usefixtures("site")
def test_what_is_no_range_of_versions_exits_3_and_names_the_option(ek: Ek) -> None:
    said = ek("engine", "list", "--cuda", "twelve")
    assert said.code == ExitCode.INVALID_INPUT
    assert "--cuda" in said.err
    assert "twelve" in said.err


def test_a_key_is_explained_field_by_field(ek: Ek, engine: Engine) -> None:
    said = ek("key", "explain", engine.digest.short, "--json")
    rows = {row["field"]: row for row in said.json}
    assert rows["torch"]["layer"] == "hard"
    assert rows["torch"]["value"] == engine.key.hard["torch"]
    assert rows["torch"]["meaning"]
    assert str(engine.key.digest()) in said.err


def test_a_key_that_was_not_signed_so_is_not_explained(ek: Ek, site: Site, engine: Engine) -> None:
    site.tamper("UPDATE keys SET hard = json_set(hard, '$.torch', '9.9')")
    assert ek("key", "explain", engine.digest.short).code == ExitCode.INTEGRITY


def test_both_names_of_the_comparison_are_one(ek: Ek, engine: Engine) -> None:
    name = engine.digest.short
    said = [ek(group, "diff", name, name, "--json") for group in ("key", "engine")]
    assert said[0] == said[1]
    assert said[0].json == []


@pytest.mark.usefixtures("source")
def test_a_miss_names_the_nearest_engine_and_what_differs(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path, recipes="[none, fp8]")
    said = ek("engine", "nearest", spec, "--json")
    assert said.code == ExitCode.OK, said.err
    (miss,) = said.json
    (near,) = miss["nearest"]
    assert miss["variant"] == "tiny.fp8.tp1.cpu"
    assert near["engine"] == str(engine.digest)
    assert near["hard"] == len([one for one in near["differences"] if one["layer"] == "hard"])
    assert "recipe" in {one["field"] for one in near["differences"]}
    assert f"engine {engine.digest.short} exists" in said.err
    table = ek("engine", "nearest", spec)
    assert "hard   recipe" in table.out


@pytest.mark.usefixtures("site", "source")
def test_without_any_engine_nothing_is_near(ek: Ek, tmp_path: Path) -> None:
    assert ek("engine", "nearest", write_spec(tmp_path)).code == ExitCode.NOT_FOUND


def test_a_channel_resolves_for_this_node(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0])
    site.bench.registry.set_channel("prod", engine.digest, site.bench.environment, actor="anna")
    said = ek("channel", "resolve", "tiny", "prod", "--json")
    assert (said.code, said.json["engine"]) == (ExitCode.OK, str(engine.digest))
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL)
    closed = ek("channel", "resolve", "tiny", "prod")
    assert closed.code == ExitCode.FAIL
    assert str(engine.digest) in closed.out
    assert ek("channel", "resolve", "tiny", "canary").code == ExitCode.NOT_FOUND


def test_a_backup_is_restored_when_it_is_asked_for(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    made = ek("db", "backup", kept, "--json")
    assert made.code == ExitCode.OK, made.err
    assert made.json["rows"]["engines"] == 1
    site.publish(variants_of(tmp_path, recipes="[fp8]")[0], b"newer")
    assert ek("db", "restore", kept).code == ExitCode.UNAVAILABLE
    assert len(ek("engine", "list", "--json").json) == 2
    assert ek("db", "restore", kept, "--dry-run").code == ExitCode.OK
    done = ek("db", "restore", kept, "--yes", "--json")
    assert done.json == made.json
    assert "what was judged, held and revoked since" in done.err
    assert short(ek("engine", "list", "--json")) == [engine.digest.short]


@pytest.mark.usefixtures("engine")
def test_a_spoiled_backup_exits_11_and_changes_nothing(ek: Ek, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    ek("db", "backup", kept)
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    said = ek("db", "restore", kept, "--yes")
    assert (said.code, len(ek("engine", "list", "--json").json)) == (ExitCode.INTEGRITY, 1)
    assert "next:" in said.err


def test_a_backup_that_is_not_there_exits_4(ek: Ek, tmp_path: Path) -> None:
    assert ek("db", "restore", tmp_path / "none").code == ExitCode.NOT_FOUND
