"""The work store: a product is complete or absent, and made once."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginekeeper.work import WorkStore
from registry.digests import digest_bytes
from registry.errors import DiskFullError

KEY = digest_bytes(b"inputs")


def make(store: WorkStore, text: str = "made") -> bool:
    with store.product("checkpoint", KEY) as (product, record):
        if product.complete:
            return False
        (product.path / "file").write_text(text)
        record["note"] = text
        return True


def test_a_product_is_found_after_it_was_made(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)
    assert store.find("checkpoint", KEY) is None
    assert make(store)
    found = store.find("checkpoint", KEY)
    assert found is not None
    assert (found / "file").read_text() == "made"
    assert store.record("checkpoint", KEY)["note"] == "made"


def test_a_product_is_made_only_once(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make(store), range(8)))
    assert made.count(True) == 1


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)

    def fail() -> None:
        with store.product("checkpoint", KEY) as (product, _):
            (product.path / "half").write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert store.find("checkpoint", KEY) is None
    assert not list((tmp_path / "checkpoint").iterdir())


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)
    draft = store.path("checkpoint", KEY)
    draft = draft.with_name(draft.name + ".draft")
    draft.mkdir(parents=True)
    (draft / "stale").write_text("half of an earlier run")
    assert make(store)
    assert not (store.path("checkpoint", KEY) / "stale").exists()


def test_a_full_disk_is_said_plainly(tmp_path: Path) -> None:
    store = WorkStore(tmp_path)
    with (
        pytest.raises(DiskFullError, match="disk is full"),
        store.product("checkpoint", KEY),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
