"""Manifests: confined, complete, and changed by every byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import digest_bytes
from registry.errors import IntegrityError, InvalidRecordError
from registry.manifests import FileEntry, Manifest, verify_directory
from registry.names import check_path

KEY = digest_bytes(b"key")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    root = tmp_path / "engine"
    (root / "graphs").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "graphs" / "prefill.pt2").write_bytes(b"\x00" * 100)
    return root


def test_a_manifest_reads_back_as_itself(engine: Path) -> None:
    manifest = Manifest.of_directory(engine, "engine", key=KEY, simulated=True)
    assert Manifest.from_bytes(manifest.to_bytes(), expected=manifest.digest) == manifest
    assert [entry.path for entry in manifest.files] == ["config.json", "graphs/prefill.pt2"]
    assert manifest.size == 102


def test_its_digest_is_what_sha256sum_prints(engine: Path) -> None:
    manifest = Manifest.of_directory(engine, "engine")
    assert manifest.digest.value == hashlib.sha256(manifest.to_bytes()).hexdigest()


def test_what_it_says_changes_its_digest(engine: Path) -> None:
    one = Manifest.of_directory(engine, "engine")
    others = [
        Manifest.of_directory(engine, "checkpoint"),
        Manifest.of_directory(engine, "engine", key=KEY),
        Manifest.of_directory(engine, "engine", simulated=True),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


def test_an_untouched_directory_fits(engine: Path) -> None:
    verify_directory(Manifest.of_directory(engine, "engine"), engine)


def _flip(root: Path) -> None:
    path = root / "graphs" / "prefill.pt2"
    path.write_bytes(b"\x00" * 99 + b"\x01")


def _link(root: Path) -> None:
    (root / "config.json").rename(root.parent / "elsewhere")
    (root / "config.json").symlink_to(root.parent / "elsewhere")


def _link_folder(root: Path) -> None:
    (root / "graphs").rename(root.parent / "elsewhere")
    (root / "graphs").symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda root: (root / "config.json").write_text("{}\n"),
        lambda root: (root / "config.json").unlink(),
        lambda root: (root / "extra").write_text("x"),
    ],
    ids=["bit flipped", "longer", "missing", "extra file"],
)
def test_a_changed_directory_does_not_fit(engine: Path, damage: Callable[[Path], object]) -> None:
    manifest = Manifest.of_directory(engine, "engine")
    damage(engine)
    with pytest.raises(IntegrityError):
        verify_directory(manifest, engine)


@pytest.mark.parametrize(
    "damage", [_link, _link_folder, lambda root: os.mkfifo(root / "pipe")],
    ids=["link to a file", "link to a folder", "fifo"],
)  # fmt: skip
def test_what_is_no_plain_file_is_refused(engine: Path, damage: Callable[[Path], object]) -> None:
    manifest = Manifest.of_directory(engine, "engine")
    damage(engine)
    with pytest.raises(InvalidRecordError):
        Manifest.of_directory(engine, "engine")
    with pytest.raises(IntegrityError, match="neither a regular file"):
        verify_directory(manifest, engine)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\..\\b", "", "a/\x00", "a/", "a\nb"],
)
def test_a_path_that_could_leave_is_refused(path: str) -> None:
    with pytest.raises(InvalidRecordError):
        FileEntry(path, 1, digest_bytes(b""))


@given(st.text(max_size=30))
def test_an_accepted_path_stays_below_its_root(path: str) -> None:
    try:
        check_path(path)
    except InvalidRecordError:
        return
    joined = os.path.normpath(Path("/root") / path)
    assert joined.startswith("/root/")
    assert len(Path(path).parts) == path.count("/") + 1


def test_a_file_that_is_also_a_directory_is_refused() -> None:
    empty = digest_bytes(b"")
    with pytest.raises(InvalidRecordError):
        Manifest("engine", (FileEntry("a", 0, empty), FileEntry("a/b", 0, empty)))
    with pytest.raises(InvalidRecordError):
        Manifest("engine", (FileEntry("a", 0, empty), FileEntry("a", 0, empty)))


def test_an_empty_directory_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError):
        Manifest.of_directory(tmp_path, "engine")
    with pytest.raises(InvalidRecordError):
        Manifest.of_directory(tmp_path / "absent", "engine")


def test_an_edited_manifest_is_noticed(engine: Path) -> None:
    manifest = Manifest.of_directory(engine, "engine")
    edited = manifest.to_bytes().replace(b'"simulated":false', b'"simulated":true')
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(edited, expected=manifest.digest)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"simulated": 1}, {"files": "x"}, {"files": [{"path": "a"}]}, {"key": 5},
        {"files": [{"path": "a", "size": "1", "digest": "sha256:" + "0" * 64}]}, {"more": 1},
        {"files": [{"path": "a", "size": 1.5, "digest": "sha256:" + "0" * 64}]},
        {"kind": "../x"},
    ],
)  # fmt: skip
def test_what_is_not_a_manifest_is_refused(engine: Path, change: dict[str, object]) -> None:
    document = {**Manifest.of_directory(engine, "engine").as_dict(), **change}
    data = json.dumps(document).encode()
    with pytest.raises(InvalidRecordError):
        Manifest.from_bytes(data, expected=digest_bytes(data))
