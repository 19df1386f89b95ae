"""Whose signature counts for what: a small JSON file of public keys.

Rules:

- a key is trusted for the purposes it lists and for nothing else: a builder's key cannot pass a
  verdict or vouch for a reference, a validator's key cannot vouch for a build;
- simulated artifacts have a trust root of their own: none of its keys counts for a real one;
- a key's id is computed from the key; an entry whose id is not its key's is refused;
- removing a key's entry revokes it: nothing adds it again but a person who asks for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, SSlibKey

from registry.digests import canonical_json, digest_bytes
from registry.documents import check_schema, read_object
from registry.errors import InvalidRecordError, RecordNotFoundError

SCHEMA = 1


class Purpose(StrEnum):
    """What a signature says."""

    BUILD = "build"
    """These bytes were built from these inputs."""

    VERDICT = "verdict"
    """These bytes were judged, with this result."""

    REFERENCE = "reference"
    """These are the outputs of this model, that engines are judged by."""

    REVOCATION = "revocation"
    """This engine must not run any more."""


class TrustRoot(StrEnum):
    """Which world a key vouches for; the two never mix."""

    PRODUCTION = "production"
    SIMULATED = "simulated"

    @classmethod
    def of(cls, *, simulated: bool) -> TrustRoot:
        """Returns the root that artifacts of a kind are signed under."""
        return cls.SIMULATED if simulated else cls.PRODUCTION


@dataclass(frozen=True)
class TrustedKey:
    """A public key, and what it is trusted for."""

    keytype: str
    scheme: str
    public: str
    """The public key as securesystemslib writes it: hexadecimal for ed25519, PEM for others."""
    purposes: frozenset[Purpose]
    root: TrustRoot

    @property
    def keyid(self) -> str:
        """The key's id, computed from the key."""
        named = {"keytype": self.keytype, "scheme": self.scheme, "keyval": {"public": self.public}}
        return digest_bytes(canonical_json(named)).value

    def as_sslib(self) -> SSlibKey:
        """Returns the key in the form that verifies signatures."""
        return SSlibKey(self.keyid, self.keytype, self.scheme, {"public": self.public})

    def as_dict(self) -> dict[str, Any]:
        """Returns the entry as a JSON object."""
        return {
            "keyid": self.keyid,
            "keytype": self.keytype,
            "scheme": self.scheme,
            "public": self.public,
            "purposes": sorted(self.purposes),
            "root": str(self.root),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrustedKey:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
        try:
            key = cls(
                document["keytype"], document["scheme"], document["public"],
                frozenset(Purpose(purpose) for purpose in document["purposes"]),
                TrustRoot(document["root"]),
            )  # fmt: skip
            if (key.keytype, key.scheme) not in KEY_FOR_TYPE_AND_SCHEME:
                raise InvalidRecordError("an unknown kind of key", actual=document)
            if document["keyid"] != key.keyid:
                raise InvalidRecordError(
                    "the id is not that of the key",
                    where="trust file", actual=document["keyid"], expected=key.keyid,
                )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRecordError(f"not a trusted key: {error}", where="trust file") from error
        return key


@dataclass(frozen=True)
class Trust:
    """All trusted keys."""

    keys: tuple[TrustedKey, ...] = ()

    def keys_for(self, purpose: Purpose, root: TrustRoot) -> list[SSlibKey]:
        """Returns the public keys that may sign for a purpose under a root."""
        return [key.as_sslib() for key in self.keys if purpose in key.purposes and key.root is root]

    def purposes_of(self, keyids: Iterable[str]) -> list[str]:
        """Says for a person what keys are trusted for: `build (production)` and the like."""
        wanted = set(keyids)
        return [
            f"{purpose} ({key.root})"
            for key in self.keys
            if key.keyid in wanted
            for purpose in sorted(key.purposes)
        ]

    def with_key(self, key: TrustedKey) -> Trust:
        """Returns the same trust and one key more; a known key gets the new purposes too."""
        for index, known in enumerate(self.keys):
            if known.keyid == key.keyid and known.root is key.root:
                merged = replace(known, purposes=known.purposes | key.purposes)
                return Trust((*self.keys[:index], merged, *self.keys[index + 1 :]))
        return Trust((*self.keys, key))

    def as_dict(self) -> dict[str, Any]:
        """Returns the trust file's content."""
        return {"schema": SCHEMA, "keys": [key.as_dict() for key in self.keys]}


def read_trust(path: Path) -> Trust:
    """Reads a trust file; raises RecordNotFoundError or InvalidRecordError."""
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise RecordNotFoundError(
            "there is no trust file",
            where=str(path),
            remedy="copy the one of the registry's owner, or trust keys of your own: "
            "enginekeeper key trust",
        ) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidRecordError(
            "others on this host may write the trust file",
            where=str(path), actual=stat.filemode(mode), expected="-rw-r--r--",
            remedy=f"chmod 644 {path}",
        )  # fmt: skip
    document = read_object(data, where=str(path))
    check_schema(document, SCHEMA, where=str(path))
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise InvalidRecordError("the trust file lists no keys", where=str(path))
    return Trust(tuple(TrustedKey.from_dict(entry) for entry in entries))


def add_trusted_key(path: Path, key: TrustedKey) -> Trust:
    """Adds a key to a trust file, which is created if need be, and returns the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        trust = read_trust(path) if path.exists() else Trust()
        changed = trust.with_key(key)
        if changed != trust:
            _replace(path, json.dumps(changed.as_dict(), indent=2).encode() + b"\n")
        return changed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time into a block; the kernel frees the lock of one that dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")  # one writer at a time: who is killed leaves one
    try:
        with draft.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fchmod(handle.fileno(), 0o644)
            os.fsync(handle.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
