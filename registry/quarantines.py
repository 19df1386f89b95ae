"""Quarantines and releases as statements beside the engine, so that no lost catalogue loses them.

Rules:

- a quarantine lies beside the engine, signed by a revoker where there is one; what lies there holds
  the engine, whoever signed it: like a revocation, it can only make things worse;
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
from registry.envelopes import told_by
from registry.errors import IntegrityError
from registry.standing import Standing, StandingChange, held_by
from registry.statements import Statements, put_statement, statements_of
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


def quarantines_to_end(
    store: BlobStore, engine: Engine, recorded: Sequence[StandingChange]
) -> set[str]:
    """Returns the names of all that was said to quarantine an engine, recorded or beside it."""
    kind = Standing.QUARANTINED
    known = [one.envelope.encode() for one in recorded if one.kind is kind and one.envelope]
    beside = statements_of(store, engine).envelopes(_NAMES[kind])
    return {str(told_by(one)) for one in (*known, *beside)}


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
    known = {one.envelope for one in recorded}
    said = list(beside.envelopes(layout.QUARANTINE))
    releases = list(_releases(beside, engine, trust)) if said or held is not None else []
    ended = {name for _, ends in releases for name in ends}
    quarantines = (
        _quarantine(engine, one, trust, now)
        for one in said
        if one.decode(errors="replace") not in known and str(told_by(one)) not in ended
    )
    holds = "" if held is None or held.envelope is None else str(told_by(held.envelope.encode()))
    ending = [one for one, ends in releases if holds in ends and one.envelope not in known]
    return (*quarantines, *sorted(ending, key=lambda one: one.changed_at, reverse=True)[:1])


def _quarantine(engine: Engine, envelope: bytes, trust: Trust, now: datetime) -> StandingChange:
    kind = Standing.QUARANTINED
    try:
        return _verified(engine, envelope, kind, trust)[0]
    except IntegrityError as error:
        reason = f"found beside the engine, {error.what}"
    return StandingChange(
        engine.digest, kind, reason, "unknown", now, envelope.decode(errors="replace")
    )


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
