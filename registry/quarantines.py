"""Quarantines and releases as statements beside the engine, so that no lost catalogue loses them.

Rules:

- a quarantine lies beside the engine, signed by a revoker where there is one; what lies there holds
  the engine, whoever signed it: like a revocation, it can only make things worse;
- what is no envelope at all holds the engine, too, and is recorded by the digest of its bytes: they
  are anything, and no catalogue has to hold them;
- a release names the quarantines that it ends, and ends them in a catalogue that lost it only if
  trusted revokers signed it: else whoever writes the store could open a gate;
- so a quarantine that was released without a key counts again after `ek db restore`, until it is
  released again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from securesystemslib.signer import Signer

from registry import layout
from registry.attestations import HOLD_TYPE, RELEASE_TYPE, Statement, sign, timestamp, verify
from registry.blobs.interface import BlobStore
from registry.digests import Digest
from registry.envelopes import is_envelope, told_by
from registry.errors import IntegrityError
from registry.standing import Standing, StandingChange, held_by
from registry.statements import Statements, put_statement
from registry.trust import Purpose, Trust, read_moment
from registry.types import Engine

_TYPES = {Standing.QUARANTINED: HOLD_TYPE, Standing.RELEASED: RELEASE_TYPE}
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
    known = [one.envelope.encode() for one in recorded if one.kind is kind and one.envelope]
    return {str(told_by(one)) for one in (*known, *beside.envelopes(_NAMES[kind]))}


def lost_changes(
    beside: Statements, engine: Engine, recorded: Sequence[StandingChange], trust: Trust,
    now: datetime,
) -> tuple[StandingChange, ...]:  # fmt: skip
    """Returns the quarantines and releases that a catalogue lost, given those it has, newest first.

    Nothing for an engine that was revoked: nothing follows that.
    """
    held = held_by(recorded)
    if held is not None and held.kind is Standing.REVOKED:
        return ()
    said = {name: beside.read(name) for name in beside.names(layout.QUARANTINE)}
    releases = list(_releases(beside, engine, trust)) if said or held is not None else []
    ended = {name for _, ends in releases for name in ends}
    quarantines = (
        _quarantine(engine, one, name, trust, now)
        for name, one in said.items()
        if not _tells(recorded, told_by(one)) and str(told_by(one)) not in ended
    )
    ending = [
        one
        for one, ends in releases
        if held is not None
        and any(_is_of(held, name) for name in ends)
        and not _tells(recorded, told_by((one.envelope or "").encode()))
    ]
    return (*quarantines, *sorted(ending, key=lambda one: one.changed_at, reverse=True)[:1])


def _tells(recorded: Sequence[StandingChange], told: Digest) -> bool:
    """Says whether a change is recorded of what an envelope, or junk, tells."""
    return any(_is_of(one, str(told)) for one in recorded)


def _is_of(change: StandingChange, told: str) -> bool:
    if change.envelope is not None:
        return str(told_by(change.envelope.encode())) == told
    return change.reason.endswith(f" ({told})")  # what is no envelope has its digest there


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
        return StandingChange(engine.digest, kind, reason, "unknown", now, envelope.decode())
    reason = f"found beside the engine, {name!r} is no statement ({told_by(envelope)})"
    return StandingChange(engine.digest, kind, reason, "unknown", now)


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
