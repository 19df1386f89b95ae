"""An export that was interrupted, or meets what others left."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from registry.bundles import (
    write_directory,
)
from registry.errors import (
    StoreUnavailableError,
)
from registry.exchange import evidence_of
from registry.types import Engine
from tests.factories.registry import Workbench, with_registry
from tests.fakes.bundles import faults


@pytest.fixture
def engine(bench: Workbench) -> Engine:
    return bench.publish_judged()


def prepared(draft: Path, what: str) -> Path:
    """Puts into the place of a draft what somebody else prepared; returns where it leads."""
    target = draft.with_name("elsewhere")
    (target / "engine" / "graphs").mkdir(parents=True)
    if what == "the draft is a link":
        draft.symlink_to(target)
        return target
    draft.mkdir()
    if what == "a file that nobody asked for":
        (draft / "run.sh").write_text("echo pwned")
        (draft / "engine").mkdir()
        (draft / "engine" / "more.so").write_bytes(b"?")
    else:
        (draft / what).parent.mkdir(exist_ok=True)
        (draft / what).symlink_to(target / what)
    return target


def test_an_interrupted_export_goes_on(bench: Workbench, engine: Engine, tmp_path: Path) -> None:
    evidence, out = evidence_of(bench.registry, engine), tmp_path / "out"
    broken = with_registry(bench).registry.store
    draft = tmp_path / ".out.exporting" / "engine"
    bench.registry.fetch_engine(engine.digest, draft)
    write_directory(broken, evidence, out)
    assert faults(out, bench.signers.trust) == []
    assert not draft.exists()


@pytest.mark.parametrize(
    "what",
    ["the draft is a link", "a file that nobody asked for", "engine", ".engine.fetching",
     "engine/graphs", "evidence.json"],
)  # fmt: skip
def test_an_export_follows_nothing_that_lies_where_it_writes(
    bench: Workbench, engine: Engine, tmp_path: Path, what: str
) -> None:
    target, evidence = (
        prepared(tmp_path / ".out.exporting", what),
        evidence_of(bench.registry, engine),
    )
    if what == "the draft is a link":
        with pytest.raises(StoreUnavailableError, match="belongs to somebody else"):
            write_directory(bench.registry.store, evidence, tmp_path / "out")
    else:
        write_directory(bench.registry.store, evidence, tmp_path / "out")
        assert faults(tmp_path / "out", bench.signers.trust) == []
    assert [one for one in target.rglob("*") if one.is_file()] == []


def test_an_export_goes_on_with_what_another_engine_left_there(
    bench: Workbench, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _data: bytes) -> None:
        raise OSError(errno.EIO, "broken", str(path))

    other = evidence_of(bench.registry, bench.publish(content=b"other"))
    with monkeypatch.context() as broken:
        broken.setattr("registry.bundles.write_whole", full)
        with pytest.raises(StoreUnavailableError):
            write_directory(bench.registry.store, other, tmp_path / "out")
    assert (tmp_path / ".out.exporting" / "engine").is_dir()
    write_directory(bench.registry.store, evidence_of(bench.registry, engine), tmp_path / "out")
    assert faults(tmp_path / "out", bench.signers.trust) == []
