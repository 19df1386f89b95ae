"""Bundles that somebody else packed: what a tar can hold that no bundle holds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from registry.bundles import directory_checks
from registry.evidence import EVIDENCE
from registry.trust import Trust

Member = tuple[tarfile.TarInfo, bytes]
Members = list[Member]


def members_of(bundle: Path) -> Members:
    """Returns the members of a bundle, with their bytes."""
    with tarfile.open(bundle) as archive:
        found = []
        for one in archive:
            handle = archive.extractfile(one)
            assert handle is not None
            found.append((one, handle.read()))
        return found


def faults(directory: Path, trust: Trust) -> list[str]:
    """Returns what is wrong with a directory that an engine was exported to."""
    return [one.what for one in directory_checks(directory, trust) if one.fault is not None]


def packed(members: Members, path: Path, form: int = tarfile.GNU_FORMAT) -> Path:
    """Packs members, whatever they are, into a tar."""
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    """Returns a member of any kind."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def with_size(one: Member, data: bytes) -> Member:
    """Returns a member of the same name with other bytes."""
    info = tarfile.TarInfo(one[0].name)
    info.size = len(data)
    return info, data


ATTACKS: dict[str, Callable[[Members], Members]] = {
    "a path that climbs": lambda m: [*m, member("../../etc/cron.d/x", b"x")],
    "an absolute path": lambda m: [*m, member("/etc/cron.d/x", b"x")],
    "a climbing path first": lambda m: [member("../x", b"x"), *m],
    "a symbolic link": lambda m: [m[0], member(m[1][0].name, b"", tarfile.SYMTYPE, "/etc"), *m[1:]],
    "a link with the right bytes": lambda m: [
        m[0], member(m[1][0].name, m[1][1], tarfile.SYMTYPE, "/etc/passwd"), *m[2:],
    ],
    "a hard link": lambda m: [*m[:-1], member(m[-1][0].name, b"", tarfile.LNKTYPE, "/etc/passwd")],
    "a device": lambda m: [m[0], member(m[1][0].name, b"", tarfile.CHRTYPE), *m[1:]],
    "a pipe": lambda m: [m[0], member(m[1][0].name, b"", tarfile.FIFOTYPE), *m[1:]],
    "a directory": lambda m: [m[0], member("blobs", b"", tarfile.DIRTYPE), *m[1:]],
    "a sparse file": lambda m: [m[0], member(m[1][0].name, b"", tarfile.GNUTYPE_SPARSE), *m[2:]],
    "a member twice": lambda m: [*m, m[-1]],
    "the evidence twice": lambda m: [m[0], *m],
    "a member more": lambda m: [*m, member("plugin.so", b"x")],
    "a member less": lambda m: m[:-1],
    "nothing but evidence": lambda m: m[:1],
    "no evidence": lambda m: m[1:],
    "another order": lambda m: [m[0], *reversed(m[1:])],
    "a blob that is too long": lambda m: [*m[:-1], with_size(m[-1], m[-1][1] + b"x" * 10_000)],
    "a blob that is too short": lambda m: [*m[:-1], with_size(m[-1], m[-1][1][:-1])],
    "a swapped blob": lambda m: [*m[:-1], with_size(m[-1], bytes(len(m[-1][1])))],
    "evidence that is too long": lambda m: [member(EVIDENCE, b" " * (17 << 20)), *m[1:]],
    "a name that only looks like it": lambda m: [
        member("./evidence.json", m[0][1]), *m[1:],
    ],
}  # fmt: skip
"""By their names, what is done to the members of a good bundle; none may be taken in."""
