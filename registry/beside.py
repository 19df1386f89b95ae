"""What lies signed beside an engine in the store, and counts again where the catalogue lost it.

Revocations, the ends of waivers, and verdicts: a catalogue that was restored, edited or swept may
lack their rows. They are looked for before an engine gets anywhere: when it, a verdict on it or a
waiver for it is published, when a channel is moved to it, and by a scrub. The gate looks while the
catalogue says that it was restored from a backup and nobody has scrubbed since; it records nothing.

Example:
    with catalogue.read() as view:
        lost = find_lost(view, store, engine, trust, now)
    with catalogue.edit() as draft:
        take_in(draft, lost)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from registry import layout
from registry.blobs.interface import BlobStore
from registry.digests import Digest
from registry.envelopes import told_by
from registry.errors import IntegrityError, NotYetError
from registry.publishing import stated_verdict
from registry.quarantines import lost_changes
from registry.queries import View
from registry.records import Draft
from registry.revocations import found_beside, verify_revocation
from registry.standing import Standing, StandingChange, held_by
from registry.statements import Statements, envelope_start, statements_of
from registry.trust import Purpose, Trust
from registry.types import Engine, Result, Verdict, Waiver
from registry.waivers import ended_together, ending_among


@dataclass(frozen=True)
class Lost:
    """What the catalogue does not have of what lies beside an engine."""

    revocations: tuple[StandingChange, ...] = ()
    doubtful: tuple[StandingChange, ...] = ()
    """Revocations that nobody trusted signed: they count as long as they lie there."""
    holds: tuple[StandingChange, ...] = ()
    """Quarantines, and after them the release of what is recorded to be held."""
    endings: tuple[tuple[Digest, str], ...] = ()
    """Waivers that have ended, each with the envelope that says so."""
    verdicts: tuple[Verdict, ...] = ()
    """Passes after which nothing recorded was said there, as they were issued; then all others."""
    unread: str | None = None
    """Why it could not be told; None where it could."""

    def __bool__(self) -> bool:
        """Says whether there is anything to take in."""
        found = (self.revocations, self.doubtful, self.holds, self.endings, self.verdicts)
        return any(found)

    @property
    def judgements(self) -> Lost:
        """What comes before a verdict that is about to be published: the verdicts.

        It may be one of them, handed in again: then it comes no later than it did, and what
        stopped its engine after it stops it still.
        """
        return Lost(verdicts=self.verdicts)

    @property
    def standing(self) -> tuple[StandingChange, ...]:
        """What comes before the recorded changes of the engine's standing, newest first."""
        return (*self.revocations, *self.doubtful, *self.holds)

    @property
    def engines(self) -> set[Digest]:
        """Of what something was lost but the end of a waiver: one, or none."""
        return {one.engine for one in self.standing} | {one.engine for one in self.verdicts}

    def among_waivers(self, waivers: Iterable[Waiver]) -> list[Waiver]:
        """Returns recorded waivers, those that were ended with the statement that ended them."""
        ended = dict(self.endings)
        return ended_together(
            replace(one, ending=ended[one.digest]) if one.digest in ended else one
            for one in waivers
        )


NOTHING_LOST = Lost()
_LOOKED_AT = (Purpose.REVOCATION, layout.QUARANTINE, layout.RELEASE, layout.WAIVER_END)
"""Statements of which one that is there may be lost, recorded or not."""


def anything_beside(store: BlobStore, engine: Engine, recorded: Collection[Digest]) -> bool:
    """Says whether there is anything that `find_lost` would look at: listed, nothing read.

    Verdicts that are recorded are nothing to look at.
    """
    said, known = statements_of(store, engine), {one.short for one in recorded}
    return bool(
        any(said.names(kind) for kind in _LOOKED_AT)
        or any(envelope_start(name) not in known for name in said.names(Purpose.VERDICT))
    )


def find_lost(view: View, store: BlobStore, engine: Engine, trust: Trust, now: datetime) -> Lost:
    """Returns what a catalogue lost of what lies beside an engine; changes nothing.

    Raises NotYetError for a verdict, or the end of a waiver, of a time that has not come here: who
    left it out because of a wrong clock would let what it closed open.
    """
    said = statements_of(store, engine)
    changes = view.standing(engine.digest)
    waivers = [one for one in view.waivers(engine.digest) if one.ending is None]
    recorded = {one.envelope for one in changes}
    signed, doubtful = _revocations(said, engine, trust, now)
    envelopes = tuple(said.envelopes(layout.WAIVER_END)) if waivers else ()
    endings = ((one.digest, ending_among(envelopes, one, trust)) for one in waivers)
    return Lost(
        tuple(one for one in signed if one.envelope not in recorded),
        tuple(one for one in doubtful if one.envelope not in recorded),
        () if signed else lost_changes(said, engine, changes, trust, now),
        tuple((digest, ending) for digest, ending in endings if ending is not None),
        tuple(_lost_verdicts(view.verdicts(engine.digest), said, engine, trust, now)),
    )


def _revocations(
    beside: Statements, engine: Engine, trust: Trust, now: datetime
) -> tuple[list[StandingChange], list[StandingChange]]:
    """Returns the revocations beside an engine: those that somebody trusted signed, the others."""
    signed, doubtful = [], []
    for envelope in beside.envelopes(Purpose.REVOCATION):
        try:
            verify_revocation(engine, envelope, trust)
        except IntegrityError:
            doubtful.append(found_beside(engine, envelope, trust, now))
        else:
            signed.append(found_beside(engine, envelope, trust, now))
    return signed, doubtful


def _lost_verdicts(
    recorded: Sequence[Verdict], beside: Statements, engine: Engine, trust: Trust, now: datetime
) -> Iterator[Verdict]:
    """Yields the verdicts beside an engine that are not recorded, as they are to be recorded.

    One that nobody trusted signed is none: it could open a gate. When each was recorded is lost
    with the rows, and the latest of them decided: so all that are no pass come after the passes,
    however early they were issued, and what is judged from now on decides. A pass that was issued
    before what is recorded of the same environment would decide nothing, and is no loss.
    """
    known = {one.digest.short for one in recorded}
    said = {told_by(one.envelope.encode()) for one in recorded}
    found = []
    for name in beside.names(Purpose.VERDICT):
        if envelope_start(name) in known:
            continue
        envelope = beside.read(name)
        try:
            verdict = stated_verdict(engine, envelope, trust, now)
        except NotYetError:
            raise
        except IntegrityError:
            continue
        if told_by(envelope) not in said:  # else a recorded one in another envelope
            place = beside.document(engine.digest, verdict.document)
            found.append(replace(verdict, path=place))
    for one in sorted(found, key=lambda it: (it.result is not Result.PASS, it.issued_at)):
        there = (other for other in recorded if other.environment == one.environment)
        late = any(other.issued_at >= one.issued_at for other in there)
        if one.result is not Result.PASS or not late:
            yield one


def take_in(draft: Draft, lost: Lost) -> int:
    """Records what was lost; returns how many revocations, of which one is enough.

    What only calls itself a revocation is recorded as a quarantine: else whoever writes the store
    could take an engine out for good. What somebody else took in meanwhile is recorded once.
    """
    for engine in lost.engines:
        draft.hold_engine(engine)  # first: what is looked at from here on stays as it is
    taken = _take_in_standing(draft, lost)
    for waiver, ending in lost.endings:
        draft.end_waiver(waiver, ending)
    for verdict in lost.verdicts:
        draft.add_verdict(verdict)
    return taken


def _take_in_standing(draft: Draft, lost: Lost) -> int:
    taken = 0
    for change in lost.revocations:
        held = held_by(draft.standing(change.engine))
        if held is None or held.kind is not Standing.REVOKED:
            draft.add_standing(change)
            taken += 1
    for change in lost.doubtful[:1]:
        if held_by(draft.standing(change.engine)) is None:
            draft.add_standing(replace(change, kind=Standing.QUARANTINED, envelope=None))
    for change in reversed(lost.holds):
        recorded = draft.standing(change.engine)
        if change.envelope is not None and change.envelope in {one.envelope for one in recorded}:
            continue
        if held_by(recorded) or change.kind is Standing.QUARANTINED:
            draft.add_standing(change)
    return taken
