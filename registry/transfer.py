"""Moves whole artifacts into and out of a store: blobs first, the manifest last.

A reader that finds a manifest finds every blob it names; a crash on the way leaves blobs that
nothing names, never an artifact that is half there. An artifact is fetched into a hidden
directory beside its destination; whoever fetches it next goes on from what is there.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from registry.blobs.interface import BlobStore, blob_name, disk_errors
from registry.blobs.partial import leftovers, locked
from registry.digests import Digest, digest_file
from registry.errors import (
    DiskFullError,
    IntegrityError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.layout import MANIFEST
from registry.manifests import FileEntry, Manifest, verify_directory

_ASKED_AT_ONCE = 8
"""Questions to a store that are under way together; on S3 a client has that many connections."""


def store_artifact(store: BlobStore, directory: Path, manifest: Manifest, folder: str) -> None:
    """Stores a directory's files and then its manifest; verifies every byte on the way.

    Raises IntegrityError when a file is not the one the manifest lists.
    """
    store_files(store, directory, manifest)
    store.put_document(f"{folder}/{MANIFEST}", manifest.to_bytes())


def heal_artifact(store: BlobStore, directory: Path, manifest: Manifest, folder: str) -> list[str]:
    """Puts a recorded artifact back from a good copy; returns what was lost or damaged.

    The caller has held the manifest against the artifact's id, so that it may replace another.
    """
    healed = store_files(store, directory, manifest)
    if store.put_document(f"{folder}/{MANIFEST}", manifest.to_bytes(), if_absent=False):
        healed.append(MANIFEST)
    return healed


def store_files(store: BlobStore, directory: Path, manifest: Manifest) -> list[str]:
    """Stores a directory's files; returns those that were not there, or there with other bytes.

    A blob that is there is read: whoever publishes may rely on what the store has afterwards.
    """
    return [
        entry.path
        for entry in manifest.files
        if put_back(store, directory / entry.path, entry.digest)
    ]


def put_back(store: BlobStore, path: Path, digest: Digest) -> bool:
    """Stores a file unless its blob is there with good bytes; says whether it was not."""
    there = store.exists(digest)
    if there and _is_damaged(store, digest):
        store.replace_file(path, digest)  # in one step: others may need what is left of it
        return True
    store.put_file(path, expected=digest)
    return not there


def _is_damaged(store: BlobStore, digest: Digest) -> bool:
    """Says whether a blob is damaged: read twice, since the way here may have spoiled it."""
    return store.is_damaged(digest) and store.is_damaged(digest)


def load_manifest(store: BlobStore, folder: str, expected: Digest) -> Manifest:
    """Returns the manifest of a recorded artifact; raises IntegrityError when it has another."""
    name = f"{folder}/{MANIFEST}"
    try:
        data = store.get_document(name)
    except RecordNotFoundError as error:
        raise lost("the manifest", f"{store.url}/{name}", expected) from error
    return Manifest.from_bytes(data, expected=expected)


def require_stored(store: BlobStore, manifest: Manifest) -> None:
    """Raises IntegrityError unless every file of a recorded artifact is there; reads none."""
    for entry in manifest.files:
        if not store.exists(entry.digest):
            raise lost(entry.path, f"{store.url}/{blob_name(entry.digest)}", entry.digest)


def is_stored(store: BlobStore, manifest: Manifest, folder: str) -> bool:
    """Says whether an artifact's manifest and all of its files are there; reads no file.

    Several are asked for at once: whoever asks may hold off every other writer meanwhile.
    """
    try:
        if store.get_document(f"{folder}/{MANIFEST}") != manifest.to_bytes():
            return False
    except RecordNotFoundError:
        return False
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return all(pool.map(store.exists, {entry.digest for entry in manifest.files}))


def lost(what: str, where: str, expected: Digest) -> IntegrityError:
    """Says that the store lost a piece of an artifact that the catalogue has."""
    return IntegrityError(
        f"{what} is recorded and not in the artifact store",
        where=where,
        expected=expected,
        remedy="put it back from a good copy: enginekeeper engine heal ENGINE --from DIRECTORY",
    )


def _fetch(store: BlobStore, entry: FileEntry, path: Path) -> None:
    try:
        store.fetch(entry.digest, path)
    except RecordNotFoundError as error:
        where = f"{store.url}/{blob_name(entry.digest)}"
        raise lost(entry.path, where, entry.digest) from error


def fetch_artifact(store: BlobStore, manifest: Manifest, destination: Path) -> None:
    """Writes an artifact's files; the directory appears complete and verified, or not at all.

    A directory that is there already is verified and left as it is. What an interrupted call
    left is verified and gone on with; wrong bytes and a full disk leave nothing.
    """
    if destination.exists():
        verify_directory(manifest, destination)
        return
    with disk_errors(destination), alone(destination):
        if destination.exists():  # by now: somebody else was at it
            verify_directory(manifest, destination)
            return
        partial = workplace(destination.with_name(f".{destination.name}.fetching"))
        prune(partial, [entry.path for entry in manifest.files])
        try:
            for entry in manifest.files:
                path = partial / entry.path
                if not _is_there(path, entry):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _fetch(store, entry, path)
            partial.chmod(0o755)
            partial.rename(destination)
        except (DiskFullError, IntegrityError, RecordNotFoundError):
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def alone(destination: Path) -> Iterator[None]:
    """Lets one process at a time write to a destination; the others wait and find it there."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    lock = destination.with_name(f".{destination.name}.lock")
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def workplace(partial: Path) -> Path:
    """Makes a directory to write into, ours alone; raises if somebody else made it, or a link."""
    partial.mkdir(mode=0o700, exist_ok=True)
    found = partial.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StoreUnavailableError(
            "the directory to write into belongs to somebody else",
            where=str(partial),
            remedy="remove it, or name another place",
        )
    partial.chmod(0o700)
    return partial


def prune(partial: Path, written: Collection[str]) -> None:
    """Removes what no interrupted run can have left that was to write some files, links first."""
    names = {partial / name for name in written}
    wanted = names | {trace for name in names for trace in leftovers(name)}
    for directory, folders, files in os.walk(partial, topdown=False):
        here = Path(directory)
        for path in (here / name for name in [*files, *folders]):
            if path.is_symlink() or (not path.is_dir() and path not in wanted):
                path.unlink()
            elif path.is_dir() and not any(path in name.parents for name in names):
                shutil.rmtree(path)


def _is_there(path: Path, entry: FileEntry) -> bool:
    """Says whether a file is there with the bytes of its entry."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return digest_file(path) == entry.digest
