"""Quarantines and releases as statements beside the engine, so that no lost catalogue loses them.

Rules:

- a quarantine lies beside the engine, signed by a revoker where there is one; what lies there holds
  the engine, whoever signed it: like a revocation, it can only make things worse;
- what is no envelope at all holds the engine, too, and is recorded by the digest of its bytes: they
  are anything, and no catalogue has to hold them;
- so does a verdict, or the end of a waiver, that the catalogue lost and that cannot be believed any
  more: it may be what closed the gate. Who releases the engine has looked into it;
- a release names the quarantines that it ends, and ends them in a catalogue that lost it only if
  trusted revokers signed it: else whoever writes the store could open a gate;
- so a quarantine that was released without a key counts again after `ek db restore`, until it is
  released again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from securesystemslib.signer import Signer

from registry import layout
from registry.attestations import HOLD_TYPE, RELEASE_TYPE, Statement, sign, timestamp, verify
from registry.blobs.interface import BlobStore
from registry.envelopes import is_envelope, told_by
from registry.errors import IntegrityError
from registry.standing import NOBODY, Standing, StandingChange, held_by
from registry.statements import Statements, put_statement
from registry.trust import Purpose, Trust, read_moment
from registry.types import Engine

_TYPES = {Standing.QUARANTINED: HOLD_TYPE, Standing.RELEASED: RELEASE_TYPE}
_JUNK = re.compile(r" \((sha256:[0-9a-f]{64})\)\Z")
"""How the reason ends of what was recorded of bytes that are no envelope."""
_NAMES = {Standing.QUARANTINED: layout.QUARANTINE, Standing.RELEASED: layout.RELEASE}


def sealed_change(
    engine: Engine, change: StandingChange, ends: Collection[str], *signers: Signer
) -> bytes:
    """Returns the envelope of a quarantine or a release, signed or not."""
    predicate = {
        "reason": change.reason,
        "actor": change.actor,
        "issuedAt": timestamp(change.changed_at),
        "simulated": engine.simulated,
        "ends": sorted(ends),
    }
    statement = Statement(
        engine.digest, Purpose.REVOCATION, predicate, predicate_type=_TYPES[change.kind]
    )
    return sign(statement, *signers)


def keep_beside(store: BlobStore, engine: Engine, kind: Standing, envelope: bytes) -> None:
    """Puts the statement of a change beside its engine; again changes nothing."""
    put_statement(store, engine.digest, _NAMES[kind], envelope)


def quarantines_to_end(beside: Statements, recorded: Sequence[StandingChange]) -> set[str]:
    """Returns the names of all that was said to quarantine an engine, recorded or beside it."""
    kind = Standing.QUARANTINED
    known = {told for one in recorded if one.kind is kind and (told := _told(one))}
    return known | {str(told_by(one)) for one in beside.envelopes(_NAMES[kind])}


def lost_changes(
    beside: Statements, engine: Engine, recorded: Sequence[StandingChange], trust: Trust,
    now: datetime, *, doubts: Sequence[StandingChange] = (),
) -> tuple[StandingChange, ...]:  # fmt: skip
    """Returns the quarantines and releases that a catalogue lost, given those it has, newest first.

    Doubts are quarantines for what else lies there (`doubt`). Nothing for an engine that was
    revoked: nothing follows that.
    """
    held = held_by(recorded)
    if held is not None and held.kind is Standing.REVOKED:
        return ()
    said = [
        _quarantine(engine, beside.read(name), name, trust, now)
        for name in beside.names(layout.QUARANTINE)
    ]
    quarantines = (*doubts, *said)
    releases = list(_releases(beside, engine, trust)) if quarantines or held is not None else []
    ended = {name for _, ends in releases for name in ends}
    lost = (one for one in quarantines if not {_told(one)} & {*map(_told, recorded), *ended})
    ending = [
        one
        for one, ends in releases
        if held is not None and _told(held) in ends and _told(one) not in map(_told, recorded)
    ]
    return (*lost, *sorted(ending, key=lambda one: one.changed_at, reverse=True)[:1])


def doubt(engine: Engine, name: str, found: bytes, why: str, now: datetime) -> StandingChange:
    """Returns the quarantine for what lies beside an engine and cannot be believed."""
    reason = f"found beside the engine, {name!r} cannot be believed: {why}"
    if is_envelope(found):
        return StandingChange(
            engine.digest, Standing.QUARANTINED, reason, NOBODY, now, found.decode()
        )
    reason = f"{reason} ({told_by(found)})"
    return StandingChange(engine.digest, Standing.QUARANTINED, reason, NOBODY, now)


def _told(change: StandingChange) -> str | None:
    """Names what a change tells: by its envelope, or by the digest in its reason if it is junk.

    None for one of an earlier version, which lies nowhere.
    """
    if change.envelope is not None:
        return str(told_by(change.envelope.encode()))
    junk = _JUNK.search(change.reason)
    return None if junk is None else junk[1]


def _quarantine(
    engine: Engine, envelope: bytes, name: str, trust: Trust, now: datetime
) -> StandingChange:
    """Returns what a document beside an engine says, or that it lies there."""
    kind = Standing.QUARANTINED
    try:
        return _verified(engine, envelope, kind, trust)[0]
    except IntegrityError as error:
        reason = f"found beside the engine, {error.what}"
    if is_envelope(envelope):
        return StandingChange(engine.digest, kind, reason, NOBODY, now, envelope.decode())
    reason = f"found beside the engine, {name!r} is no statement ({told_by(envelope)})"
    return StandingChange(engine.digest, kind, reason, NOBODY, now)


def _releases(
    beside: Statements, engine: Engine, trust: Trust
) -> Iterator[tuple[StandingChange, frozenset[str]]]:
    for envelope in beside.envelopes(layout.RELEASE):
        try:
            yield _verified(engine, envelope, Standing.RELEASED, trust)
        except IntegrityError:
            continue  # nobody trusted says so: the quarantine stays


def _verified(
    engine: Engine, envelope: bytes, kind: Standing, trust: Trust
) -> tuple[StandingChange, frozenset[str]]:
    """Returns a change that trusted revokers signed, and the quarantines that it ends."""
    said = verify(
        envelope, trust, Purpose.REVOCATION,
        subject=engine.digest, simulated=engine.simulated, predicate_type=_TYPES[kind],
    ).predicate  # fmt: skip
    try:
        ends = frozenset(map(str, said["ends"]))
        reason, actor, at = str(said["reason"]), str(said["actor"]), read_moment(said["issuedAt"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"the statement is malformed: {error}", where=f"{kind} engine {engine.digest.short}"
        ) from error
    return StandingChange(engine.digest, kind, reason, actor, at, envelope.decode()), ends
