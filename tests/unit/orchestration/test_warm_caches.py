"""Copies of a bundle's caches: whose stay, and whose are removed."""

from __future__ import annotations

import os
from pathlib import Path

from enginekeeper.fleet.processes import ProcessTable
from enginekeeper.orchestration.warm_caches import remove_ended

TABLE = ProcessTable()


def test_a_copy_stays_while_its_process_is_there_half_made_or_whole(tmp_path: Path) -> None:
    pid = os.getpid()
    started = TABLE.start_time(pid)
    mine = {f"{pid}-{started}-aa", f".{pid}-{started}-bb.restoring"}
    others = {f"{pid}-{int(started or 0) + 1}-cc", f".{2**31}-1-dd.restoring", "ee", "kept"}
    for name in mine | others:
        (tmp_path / name / "inductor").mkdir(parents=True)
    remove_ended(tmp_path, [tmp_path / "kept"], TABLE)
    assert {one.name for one in tmp_path.iterdir()} == mine | {"kept"}


def test_where_no_copy_was_made_there_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_ended(tmp_path / "caches", [], TABLE)
    assert not (tmp_path / "caches").exists()
