"""Engines with their evidence, outside of any registry: as a directory, or as one file.

    DIRECTORY/evidence.json            everything that is signed about the engine
             /engine/…                 its files

    BUNDLE (tar, not compressed): evidence.json, then blobs/<digest>, each once, in their order

Rules:

- a bundle is read forwards, and every member must be the one that is due, of the size that the
  manifest gives: there is no name, no link, no second member and no byte that could be another;
- the evidence comes first and is verified before anything is written: whoever has no signature of
  a trusted builder cannot make us write a byte;
- a directory appears whole and verified, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from registry.blobs.interface import MAX_DOCUMENT, BlobStore, disk_error, disk_errors
from registry.digests import Digest, digest_file
from registry.errors import ConflictError, IntegrityError, InvalidRecordError
from registry.evidence import EVIDENCE, Check, Evidence, checks, require
from registry.files import write_whole
from registry.manifests import FileEntry, verify_directory
from registry.transfer import alone, fetch_artifact, prune, workplace
from registry.trust import Trust

FILES = "engine"
_FETCHING = f".{FILES}.fetching"
"""Where an interrupted export has what it fetched of its engine."""
_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_PIECE = 1024 * 1024


def write_directory(store: BlobStore, evidence: Evidence, destination: Path) -> None:
    """Writes an engine and its evidence into a directory, which must not exist yet.

    Goes on from what an interrupted call left.
    """
    _require_new(destination)
    with disk_errors(destination), alone(destination):
        _require_new(destination)  # by now: somebody else was at it
        draft = workplace(destination.with_name(f".{destination.name}.exporting"))
        _reopen(draft, [entry.path for entry in evidence.manifest.files])
        fetch_artifact(store, evidence.manifest, draft / FILES)
        write_whole(draft / EVIDENCE, _document(evidence))
        draft.chmod(0o755)
        draft.rename(destination)


def _reopen(draft: Path, files: Collection[str]) -> None:
    """Leaves nothing in a draft but what may be files of its engine, for a fetch to go on with."""
    whole, partial = draft / FILES, draft / _FETCHING
    prune(draft, [f"{place}/{path}" for place in (FILES, _FETCHING) for path in files])
    if whole.is_dir():  # of the engine that was exported then, which may be another
        shutil.rmtree(partial, ignore_errors=True)
        whole.rename(partial)


def renew_evidence(directory: Path, evidence: Evidence) -> None:
    """Writes what is signed about an engine by now beside it, whole or not at all."""
    draft = directory.with_name(f".{directory.name}.{EVIDENCE}")  # beside: only two names belong in
    with disk_errors(directory):
        write_whole(draft, _document(evidence))
        draft.replace(directory / EVIDENCE)


def read_directory(directory: Path) -> Evidence:
    """Returns the evidence in a directory; raises InvalidRecordError. Believes nothing of it."""
    path = directory / EVIDENCE
    try:
        if path.is_symlink() or not path.is_file():
            raise InvalidRecordError(
                "there is no evidence beside the engine",
                where=str(path),
                remedy="write it with: enginekeeper engine export ENGINE --to DIRECTORY",
            )
        with path.open("rb") as handle:
            return Evidence.from_bytes(handle.read(MAX_DOCUMENT + 1))
    except OSError as error:
        raise disk_error(error, path) from error


def directory_checks(directory: Path, trust: Trust) -> list[Check]:
    """Says of a directory what was checked, its bytes first; needs no catalogue and no network."""
    evidence = read_directory(directory)
    extra = sorted({path.name for path in directory.iterdir()} - {EVIDENCE, FILES})
    fault = f"something else is there: {', '.join(extra)}" if extra else None
    if fault is None:
        try:
            verify_directory(evidence.manifest, directory / FILES)
        except (IntegrityError, InvalidRecordError) as error:
            fault = str(error)
    detail = f"{len(evidence.manifest.files)} files, {evidence.manifest.size} bytes"
    return [Check("bytes", fault, (), detail), *checks(evidence, trust)]


def write_bundle(store: BlobStore, evidence: Evidence, path: Path) -> Digest:
    """Writes an engine and its evidence into one file, and returns the file's digest."""
    _require_new(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.exporting-", dir=path.parent
        ) as scratch:
            draft = Path(scratch, "bundle")
            with draft.open("wb") as out:
                _add(out, EVIDENCE, _document(evidence))
                for digest, entries in _blobs(evidence):
                    blob = Path(scratch, "blob")
                    store.fetch(digest, blob)
                    out.write(_header(f"blobs/{digest.value}", entries[0].size))
                    with blob.open("rb") as source:
                        shutil.copyfileobj(source, out, _PIECE)
                    out.write(bytes(-entries[0].size % _BLOCK))
                    blob.unlink()
                out.write(bytes(2 * _BLOCK))
                out.write(bytes(-out.tell() % _RECORD))
                out.flush()
                os.fsync(out.fileno())
            draft.rename(path)
            return digest_file(path)


def unpack(path: Path, trust: Trust, destination: Path) -> Evidence:
    """Writes a bundle's engine and evidence into a directory, which must not exist yet.

    Raises IntegrityError unless every signature, every member and every byte is as it should be;
    nothing is left then.
    """
    _require_new(destination)
    with disk_errors(path), path.open("rb") as bundle:
        data = _due(bundle, EVIDENCE, None)
        evidence = Evidence.from_bytes(data)
        require(evidence, trust)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{destination.name}.unpacking-", dir=destination.parent
        ) as scratch:
            draft = Path(scratch, "export")
            for digest, entries in _blobs(evidence):
                _extract(bundle, digest, entries, draft / FILES)
            _require_end(bundle)
            write_whole(draft / EVIDENCE, data)
            draft.rename(destination)
    return evidence


def check_digest(path: Path, expected: str) -> None:
    """Raises IntegrityError unless a bundle is the one whose SHA-256 was told."""
    with disk_errors(path):
        actual = digest_file(path).value
    if actual != expected.removeprefix("sha256:").strip().lower():
        raise IntegrityError(
            "the bundle is not the one that was sent", where=str(path), actual=actual,
            expected=expected, remedy="ask for it again; import nothing of it",
        )  # fmt: skip


def _blobs(evidence: Evidence) -> list[tuple[Digest, list[FileEntry]]]:
    """Returns the distinct contents in the order of their digests, each with its files."""
    found: dict[Digest, list[FileEntry]] = {}
    for entry in evidence.manifest.files:
        found.setdefault(entry.digest, []).append(entry)
    for digest, entries in found.items():
        if len({entry.size for entry in entries}) != 1:
            raise IntegrityError(
                "files of one digest have several sizes", where="manifest", actual=digest
            )
    return sorted(found.items())


def _document(evidence: Evidence) -> bytes:
    data = evidence.to_bytes()
    if len(data) > MAX_DOCUMENT:
        raise InvalidRecordError(
            "the evidence is too large", actual=f"{len(data)} bytes",
            expected=f"at most {MAX_DOCUMENT}",
        )  # fmt: skip
    return data


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(format=tarfile.GNU_FORMAT)  # sizes above 8 GiB; names are short


def _add(out: BinaryIO, name: str, data: bytes) -> None:
    out.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK))


def _expect(bundle: BinaryIO, name: str, size: int | None) -> int:
    """Reads the header of the member that is due and returns its size."""
    try:
        info = tarfile.TarInfo.frombuf(_exactly(bundle, _BLOCK), "utf-8", "strict")
    except (tarfile.TarError, UnicodeDecodeError, ValueError) as error:
        raise _wrong(f"no tar header: {error}", name) from error
    if (info.name, info.type, info.linkname) != (name, tarfile.REGTYPE, ""):
        raise _wrong(f"{info.name[:200]!r} (type {info.type!r})", f"the file {name}")
    if info.size != size if size is not None else not 0 <= info.size <= MAX_DOCUMENT:
        raise _wrong(f"{name} of {info.size} bytes", f"{size or f'at most {MAX_DOCUMENT}'} bytes")
    return info.size


def _due(bundle: BinaryIO, name: str, size: int | None) -> bytes:
    data = _exactly(bundle, _expect(bundle, name, size))
    _require_zeros(bundle, -len(data) % _BLOCK)
    return data


def _extract(bundle: BinaryIO, digest: Digest, entries: list[FileEntry], root: Path) -> None:
    size = _expect(bundle, f"blobs/{digest.value}", entries[0].size)
    first = root / entries[0].path
    first.parent.mkdir(parents=True, exist_ok=True)
    hasher, left = hashlib.sha256(), size
    with first.open("xb") as out:
        while left:
            piece = _exactly(bundle, min(left, _PIECE))
            hasher.update(piece)
            out.write(piece)
            left -= len(piece)
        out.flush()
        os.fsync(out.fileno())
    if hasher.hexdigest() != digest.value:
        raise _wrong(f"sha256:{hasher.hexdigest()}", str(digest))
    _require_zeros(bundle, -size % _BLOCK)
    for entry in entries[1:]:
        (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first, root / entry.path)


def _require_end(bundle: BinaryIO) -> None:
    """Raises IntegrityError unless what is left is the end of an archive and nothing else."""
    rest = bundle.read(2 * _RECORD + 1)
    if len(rest) < 2 * _BLOCK or len(rest) > 2 * _RECORD or any(rest):
        raise _wrong("more than the manifest lists, or no end", "the end of the bundle")


def _require_zeros(bundle: BinaryIO, count: int) -> None:
    if any(_exactly(bundle, count)):
        raise _wrong("bytes between the members", "padding")


def _exactly(bundle: BinaryIO, count: int) -> bytes:
    data = bundle.read(count)
    if len(data) != count:
        raise _wrong("the end of the file", f"{count - len(data)} bytes more")
    return data


def _wrong(actual: str, expected: str) -> IntegrityError:
    return IntegrityError(
        "the bundle is not what its manifest says",
        actual=actual,
        expected=expected,
        remedy="ask for it again; nothing of it was imported",
    )


def _require_new(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ConflictError(
            "something is there already", where=str(path), remedy="name another place"
        )
