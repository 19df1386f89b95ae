"""The commands that look after the artifact store, here a local one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.orchestration import transfers
from registry.errors import ConflictError
from tests.factories.benches import Site, variants_of

Ek = Callable[..., Any]


def test_probe_shows_what_the_store_can_do(ek: Ek, tmp_path: Path) -> None:
    said = ek("store", "probe", "--url", (tmp_path / "other").as_uri(), "--json")
    assert said.code == ExitCode.OK
    assert {(row["feature"], row["supported"]) for row in said.json} == {
        ("hard links that take no name twice", True),
        ("file locks", True),
    }
    assert "it will do" in said.err


def test_probe_exits_10_where_nothing_can_be_published(
    ek: Ek, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: None)
    said = ek("store", "probe")
    assert said.code == ExitCode.UNAVAILABLE
    assert "no hard links" in said.err
    assert "file locks" in said.out


def test_sweep_removes_what_is_old_and_can_say_so_first(ek: Ek, tmp_path: Path) -> None:
    drafts = tmp_path / "home" / "store" / "tmp"
    drafts.mkdir(parents=True)
    for name, age in (("old", 0), ("young", 4_000_000_000)):
        (drafts / name).write_bytes(b"half")
        os.utime(drafts / name, (age, age))
    asked = ek("store", "sweep", "--dry-run", "--json")
    done = ek("store", "sweep", "--older-than", "24")
    assert asked.json == [{"name": "tmp/old"}]
    assert "1 would be removed" in asked.err
    assert (done.code, [path.name for path in drafts.iterdir()]) == (ExitCode.OK, ["young"])


def test_sweep_refuses_to_remove_what_may_be_under_way(ek: Ek) -> None:
    assert ek("store", "sweep", "--older-than", "0").code == ExitCode.USAGE


@pytest.mark.parametrize("command", ["probe", "sweep"])
def test_what_is_no_address_is_invalid_input(ek: Ek, command: str) -> None:
    assert ek("store", command, "--url", "ftp://x").code == ExitCode.INVALID_INPUT


def test_a_scrub_shows_how_far_it_is(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish(variants_of(tmp_path)[0])
    monkeypatch.setattr(transfers, "_QUIET", 0)
    said = ek("store", "scrub")
    assert said.code == ExitCode.OK
    assert "scrub: 100 % of " in said.err


def test_a_scrub_says_what_it_could_not_take_in_and_what_to_do(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish(variants_of(tmp_path)[0])

    def refuses(*_: object) -> bool:
        raise ConflictError("somebody was first")

    monkeypatch.setattr("registry.scrubbing.anything_beside", refuses)
    said = ek("store", "scrub")
    assert said.code == ExitCode.INTEGRITY
    assert "refused" in said.out
    assert "somebody was first" in said.out
    assert "scrub again" in said.err
    assert "--repair-from" not in said.err  # no copy helps


def test_a_fetch_shows_how_far_it_is(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = site.publish(variants_of(tmp_path)[0])
    site.judge(engine, variants_of(tmp_path)[0])
    monkeypatch.setattr(transfers, "_QUIET", 0)
    said = ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "out")
    assert said.code == ExitCode.OK
    assert ": 100 % of " in said.err
