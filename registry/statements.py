"""What is signed of an engine, in the store: where it is put, and where it is found.

Rules:

- the engine's digest alone decides where a statement lies: the same bytes that are built again
  under another driver are judged, waived and revoked by what was said of them before;
- nothing that was said is ever swept. It is small, and it counts again when the bytes come back;
- stores from before have statements in the engine's folder: they are read there, too.

Example:
    put_statement(store, engine.digest, Purpose.REVOCATION, envelope)
    for envelope in statements_of(store, engine).envelopes(Purpose.REVOCATION):
        verify_revocation(engine, envelope, trust)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from registry import layout
from registry.blobs.interface import BlobStore
from registry.digests import Digest, digest_bytes
from registry.trust import Purpose
from registry.types import Engine

_KINDS = (layout.WAIVER_END, layout.SUMMARY, layout.QUARANTINE, layout.RELEASE, *Purpose)
"""How names begin; of two that fit the longer one comes first."""
_STOPPING = (Purpose.REVOCATION, layout.QUARANTINE, layout.RELEASE, layout.WAIVER_END)


@dataclass(frozen=True)
class Statements:
    """What lies signed of one engine in a store, as it was when it was listed."""

    store: BlobStore
    placed: Mapping[str, str]
    """Where each lies, by its name in its folder."""

    def names(self, kind: str) -> list[str]:
        """Returns where the statements of a kind lie, each envelope once."""
        return [path for name, path in self.placed.items() if _kind(name) == kind]

    def envelopes(self, kind: str) -> Iterator[bytes]:
        """Yields the envelopes of a kind; whoever believes one verifies it first."""
        for name in self.names(kind):
            yield self.store.get_document(name)


def statements_of(store: BlobStore, engine: Engine) -> Statements:
    """Lists what lies signed of an engine, wherever it is; reads nothing."""
    placed: dict[str, str] = {}
    for folder in (layout.statement_folder(engine.digest), layout.attestation_folder(engine.path)):
        for name in store.list_documents(folder):
            placed.setdefault(name.removeprefix(folder), name)
    return Statements(store, placed)


def put_statement(store: BlobStore, engine: Digest, kind: str, envelope: bytes) -> None:
    """Puts a signed statement about an engine where it is looked for; again is nothing."""
    store.put_document(layout.statement_name(engine, kind, digest_bytes(envelope)), envelope)


def gather(store: BlobStore, engine: Digest, root: str) -> None:
    """Puts where it is looked for what a sweep from before left of an engine in other folders.

    That is what stopped it. Its folder was named after the driver it was built under, and below the
    root are those of all drivers: this is asked for once, when the engine is recorded anew.
    """
    for name in store.list_documents(f"{root}/"):
        folder, _, last = name.rpartition("/attestations/")
        kind = _kind(last)
        if folder.endswith(f"/{engine.short}") and kind in _STOPPING:
            put_statement(store, engine, kind, store.get_document(name))


def envelope_start(name: str) -> str:
    """Returns the digits of its envelope's digest that the name of a statement has."""
    return name.rpartition("-")[2].removesuffix(".dsse.json")


def _kind(name: str) -> str | None:
    return next((kind for kind in _KINDS if name.startswith(f"{kind}-")), None)
