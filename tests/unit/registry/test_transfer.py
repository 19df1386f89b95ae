"""Whole artifacts on their way out: interrupted, gone on with, and nothing smuggled in."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from registry.blobs.interface import blob_name
from registry.blobs.local import LocalBlobStore
from registry.digests import Digest
from registry.errors import (
    DiskFullError,
    IntegrityError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.manifests import Manifest, verify_directory
from registry.transfer import fetch_artifact, is_stored, load_manifest, store_artifact
from tests.fakes.stores import Killed

FILES = {"a.json": b"{}", "graphs/decode.so": b"code", "weights/model.safetensors": b"weights"}


class ForgetfulStore(LocalBlobStore):
    """Remembers what was fetched, and raises in the place of the n-th fetch."""

    fails_at = 99
    error: BaseException = Killed()

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []

    def fetch(self, digest: Digest, destination: Path) -> None:
        if len(self.fetched) == self.fails_at:
            raise self.error
        self.fetched.append(destination.name)
        super().fetch(digest, destination)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "original" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "original"


@pytest.fixture
def manifest(original: Path) -> Manifest:
    return Manifest.of_directory(original, "engine")


@pytest.fixture
def store(tmp_path: Path, original: Path, manifest: Manifest) -> ForgetfulStore:
    store = ForgetfulStore(tmp_path / "store")
    store_artifact(store, original, manifest, "engines/one")
    return store


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "node" / "engine"


@pytest.fixture
def partial(destination: Path) -> Path:
    """Where an interrupted fetch lies."""
    return destination.with_name(".engine.fetching")


def interrupt(
    store: ForgetfulStore, manifest: Manifest, destination: Path, error: BaseException, at: int = 2
) -> None:
    store.fails_at, store.error = at, error
    # what a store says it does not have was lost: the catalogue has it
    lost = isinstance(error, RecordNotFoundError)
    with pytest.raises(IntegrityError if lost else type(error)):
        fetch_artifact(store, manifest, destination)
    store.fails_at = 99
    store.fetched.clear()


def test_a_stored_artifact_comes_out_whole_and_alone(
    store: ForgetfulStore, manifest: Manifest, destination: Path
) -> None:
    found = load_manifest(store, "engines/one", manifest.digest)
    fetch_artifact(store, found, destination)
    verify_directory(manifest, destination)
    assert stat.S_IMODE(destination.stat().st_mode) == 0o755
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt(), StoreUnavailableError("away")])
def test_an_interrupted_artifact_is_not_there_and_is_gone_on_with(
    store: ForgetfulStore, manifest: Manifest, destination: Path, error: BaseException
) -> None:
    interrupt(store, manifest, destination, error)
    assert not destination.exists()
    fetch_artifact(store, manifest, destination)
    assert store.fetched == ["model.safetensors"]
    verify_directory(manifest, destination)
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize(
    "error", [IntegrityError("forged"), RecordNotFoundError("lost"), DiskFullError("full")]
)
def test_what_will_not_pass_leaves_nothing(
    store: ForgetfulStore, manifest: Manifest, destination: Path, error: BaseException
) -> None:
    interrupt(store, manifest, destination, error)
    assert list(destination.parent.iterdir()) == []


def test_a_file_that_changed_meanwhile_is_fetched_again(
    store: ForgetfulStore, manifest: Manifest, destination: Path, partial: Path
) -> None:
    interrupt(store, manifest, destination, Killed())
    (partial / "graphs" / "decode.so").write_bytes(b"evil")
    fetch_artifact(store, manifest, destination)
    assert store.fetched == ["decode.so", "model.safetensors"]
    verify_directory(manifest, destination)


def test_nothing_that_somebody_put_there_gets_into_the_artifact(
    store: ForgetfulStore, manifest: Manifest, destination: Path, partial: Path, original: Path
) -> None:
    interrupt(store, manifest, destination, Killed())
    (partial / "extra").mkdir()
    (partial / "extra" / "plugin.so").write_bytes(b"evil")
    (partial / "weights").rmdir()
    (partial / "weights").symlink_to(original / "weights")
    (partial / "a.json").unlink()
    (partial / "a.json").symlink_to(original / "a.json")
    fetch_artifact(store, manifest, destination)
    verify_directory(manifest, destination)
    assert (original / "weights" / "model.safetensors").read_bytes() == b"weights"


def test_a_link_in_the_place_of_the_workplace_is_refused(
    store: ForgetfulStore, manifest: Manifest, destination: Path, partial: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    destination.parent.mkdir()
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError, match="somebody else"):
        fetch_artifact(store, manifest, destination)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_workplace_of_somebody_else_is_refused(
    store: ForgetfulStore, manifest: Manifest, destination: Path, partial: Path
) -> None:
    partial.mkdir(parents=True)
    shutil.chown(partial, "nobody")
    with pytest.raises(StoreUnavailableError, match="somebody else"):
        fetch_artifact(store, manifest, destination)


def test_another_artifact_may_be_fetched_to_the_same_place(
    store: ForgetfulStore, manifest: Manifest, destination: Path, original: Path
) -> None:
    interrupt(store, manifest, destination, Killed())
    (original / "graphs" / "decode.so").rename(original / "decode2.so")
    other = Manifest.of_directory(original, "engine")
    store_artifact(store, original, other, "engines/two")
    fetch_artifact(store, other, destination)
    assert "a.json" not in store.fetched
    verify_directory(other, destination)


def test_two_who_fetch_to_one_place_fetch_once(
    store: ForgetfulStore, manifest: Manifest, destination: Path
) -> None:
    fetches = [
        threading.Thread(target=fetch_artifact, args=(store, manifest, destination))
        for _ in range(4)
    ]
    for fetch in fetches:
        fetch.start()
    for fetch in fetches:
        fetch.join(60)
    assert sorted(store.fetched) == ["a.json", "decode.so", "model.safetensors"]
    assert list(destination.parent.iterdir()) == [destination]


def test_a_swapped_blob_does_not_come_out(
    store: ForgetfulStore, manifest: Manifest, destination: Path, tmp_path: Path
) -> None:
    blob = tmp_path / "store" / blob_name(manifest.files[1].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"evil")
    with pytest.raises(IntegrityError):
        fetch_artifact(store, manifest, destination)
    assert list(destination.parent.iterdir()) == []


class MeetingStore(LocalBlobStore):
    """Answers whether a blob is there only when a second question is under way, too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.meeting = threading.Barrier(2, timeout=10)

    def exists(self, digest: Digest) -> bool:
        self.meeting.wait()
        return super().exists(digest)


def test_the_last_look_asks_for_several_files_at_once(original: Path, tmp_path: Path) -> None:
    (original / "four.json").write_bytes(b"four")
    manifest = Manifest.of_directory(original, "checkpoint")
    store_artifact(LocalBlobStore(tmp_path / "store"), original, manifest, "checkpoints/one")
    assert is_stored(MeetingStore(tmp_path / "store"), manifest, "checkpoints/one")


def test_the_last_look_misses_a_file_that_is_gone(original: Path, tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "store")
    manifest = Manifest.of_directory(original, "checkpoint")
    store_artifact(store, original, manifest, "checkpoints/one")
    store.remove(manifest.files[-1].digest)
    assert not is_stored(store, manifest, "checkpoints/one")
