"""What is signed of an engine, in the store: where it is put, and where it is found.

Rules:

- the engine's digest alone decides where a statement lies: the same bytes that are built again
  under another driver are judged, waived and revoked by what was said of them before;
- nothing that was said is ever swept. It is small, and it counts again when the bytes come back;
- stores from before have statements in the engine's folder: they are read there, too. It was named
  after the target and the driver of one build, and the same bytes may come back under others: so
  they are copied from all folders once (`gather_once`), before a sweep, and by every scrub.

Example:
    put_statement(store, engine.digest, Purpose.REVOCATION, envelope)
    for envelope in statements_of(store, engine).envelopes(Purpose.REVOCATION):
        verify_revocation(engine, envelope, trust)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from registry import layout
from registry.blobs.interface import BlobStore
from registry.digests import Digest, digest_bytes
from registry.errors import IntegrityError, RecordNotFoundError
from registry.trust import Purpose
from registry.types import Engine

_KINDS = (layout.WAIVER_END, layout.SUMMARY, layout.QUARANTINE, layout.RELEASE, *Purpose)
"""How names begin; of two that fit the longer one comes first."""
_OLD = re.compile(
    r"(?P<folder>engines/.+/(?P<short>[0-9a-f]{12}))/"
    r"(?:attestations/(?P<statement>[^/]+)|(?P<document>verdicts/[^/]+))"
)
"""Where stores from before have what is signed of an engine, and how it was made."""
_GATHERED = b'{"gathered": "engines"}'


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
            yield self.read(name)

    def read(self, name: str) -> bytes:
        """Returns a statement; for what is longer than any, its name: no envelope either way."""
        return _read(self.store, name)

    def place(self, engine: Digest, kind: str, envelope: bytes) -> str:
        """Returns where a statement lies, or is to lie where it does not yet."""
        name = layout.statement_name(engine, kind, digest_bytes(envelope))
        return self.placed.get(name.rpartition("/")[2], name)

    def document(self, engine: Digest, document: Digest) -> str:
        """Returns where a verdict document lies, or is to lie where it does not yet."""
        name = f"verdicts/{document.short}.json"
        return self.placed.get(name, layout.verdict_name(engine, document))


def statements_of(store: BlobStore, engine: Engine) -> Statements:
    """Lists what lies signed of an engine, wherever it is; reads nothing."""
    placed: dict[str, str] = {}
    for folder in (layout.statement_folder(engine.digest), f"{engine.path}/"):
        for name in store.list_documents(folder):
            last = name.removeprefix(folder).removeprefix("attestations/")
            placed.setdefault(last, name)
    return Statements(store, placed)


def put_statement(store: BlobStore, engine: Digest, kind: str, envelope: bytes) -> None:
    """Puts a signed statement about an engine where it is looked for; again is nothing."""
    store.put_document(layout.statement_name(engine, kind, digest_bytes(envelope)), envelope)


def gather_once(store: BlobStore) -> None:
    """Gathers what a store from before has, unless somebody did: before an engine is recorded."""
    try:
        store.get_document(layout.GATHERED)
    except RecordNotFoundError:
        gather(store)
        store.put_document(layout.GATHERED, _GATHERED)


def gather(store: BlobStore, but: Collection[str] = ()) -> frozenset[str]:
    """Copies what was said of engines out of all their folders but some, to be inherited.

    Returns the short digests of those engines: all that the name of a folder tells, and what lies
    there may be of an engine whose manifest was swept.
    """
    listed = store.list_documents("engines/")
    found = ((one, name) for name in listed if (one := _OLD.fullmatch(name)))
    engines = set()
    for (folder, short), some in groupby(found, lambda it: (it[0]["folder"], it[0]["short"])):
        names = {last: name for one, name in some if (last := _said(one))}
        if names and folder not in but:
            _copy(store, names, layout.inheritance_folder(short))
            engines.add(short)
    return frozenset(engines)


def inherit(store: BlobStore, engine: Digest) -> None:
    """Puts where it is looked for what was gathered of an engine, whatever folder it was from."""
    folder = layout.inheritance_folder(engine.short)
    names = {name.removeprefix(folder): name for name in store.list_documents(folder)}
    if names:
        _copy(store, names, layout.statement_folder(engine))


def document_places(engine: Engine, document: Digest) -> tuple[str, ...]:
    """Returns where a verdict document may lie, of an engine that was judged by any version."""
    inherited = f"{layout.inheritance_folder(engine.digest.short)}verdicts/{document.short}.json"
    old = f"{engine.path}/verdicts/{document.short}.json"
    return (layout.verdict_name(engine.digest, document), inherited, old)


def envelope_start(name: str) -> str:
    """Returns the digits of its envelope's digest that the name of a statement has."""
    return name.rpartition("-")[2].removesuffix(".dsse.json")


def _kind(name: str) -> str | None:
    return next((kind for kind in _KINDS if name.startswith(f"{kind}-")), None)


def _said(old: re.Match[str]) -> str | None:
    """Returns the name in its new folder of what lies in an old one; None for how it was made."""
    if old["document"]:
        return old["document"]
    made = _kind(old["statement"]) in {None, Purpose.BUILD, Purpose.REFERENCE}
    return None if made else old["statement"]


def _copy(store: BlobStore, names: Mapping[str, str], folder: str) -> None:
    """Copies documents that a folder does not have, each under the name that its bytes have."""
    there = frozenset(store.list_documents(folder))
    for last in sorted(names):
        if folder + last in there:
            continue
        data = _read(store, names[last])
        start, sep, _ = last.rpartition("/" if last.startswith("verdicts/") else "-")
        ending = "json" if sep == "/" else "dsse.json"
        store.put_document(f"{folder}{start}{sep}{digest_bytes(data).short}.{ending}", data)


def _read(store: BlobStore, name: str) -> bytes:
    try:
        return store.get_document(name)
    except IntegrityError:  # longer than any that is written
        return name.encode()
