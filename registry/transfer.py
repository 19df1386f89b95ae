"""Moves whole artifacts into and out of a store: blobs first, the manifest last.

A reader that finds a manifest finds every blob it names; a crash on the way leaves blobs that
nothing names, never an artifact that is half there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from registry.blobs.interface import BlobStore, disk_error
from registry.digests import Digest
from registry.layout import MANIFEST
from registry.manifests import Manifest, verify_directory


def store_artifact(store: BlobStore, directory: Path, manifest: Manifest, folder: str) -> None:
    """Stores a directory's files and then its manifest; verifies every byte on the way.

    Raises IntegrityError when a file is not the one the manifest lists.
    """
    for entry in manifest.files:
        store.put_file(directory / entry.path, expected=entry.digest)
    store.put_document(f"{folder}/{MANIFEST}", manifest.to_bytes())


def load_manifest(store: BlobStore, folder: str, expected: Digest) -> Manifest:
    """Returns the manifest in a folder; raises IntegrityError when it is not the expected one."""
    return Manifest.from_bytes(store.get_document(f"{folder}/{MANIFEST}"), expected=expected)


def fetch_artifact(store: BlobStore, manifest: Manifest, destination: Path) -> None:
    """Writes an artifact's files; the directory appears complete and verified, or not at all.

    A directory that is there already is verified and left as it is.
    """
    if destination.exists():
        verify_directory(manifest, destination)
        return
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".fetching-", dir=destination.parent))
    except OSError as error:
        raise disk_error(error, destination) from error
    try:
        for entry in manifest.files:
            path = partial / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(entry.digest, path)
        partial.chmod(0o755)
        partial.rename(destination)
    except OSError as error:
        raise disk_error(error, destination) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
