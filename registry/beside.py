"""What lies signed beside an engine in the store, and counts again where the catalogue lost it.

Revocations, the ends of waivers, and verdicts: a catalogue that was restored, edited or swept may
lack their rows. They are looked for before an engine gets anywhere: when it, a verdict on it or a
waiver for it is published, when a channel is moved to it, and by a scrub. The gate looks while the
catalogue says that it was restored from a backup and nobody has scrubbed since; it records nothing.

A lost verdict, or end of a waiver, that cannot be believed (damaged, its signer revoked since) is
none; but it may be what closed the gate. So it holds the engine where something older could open
it: a pass that was lost, too, or a pass or a waiver that a restored catalogue has.

Example:
    with catalogue.read() as view:
        lost = find_lost(view, store, engine, trust, now)
    with catalogue.edit() as draft:
        take_in(draft, lost)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from registry import layout
from registry.blobs.interface import BlobStore
from registry.digests import Digest
from registry.envelopes import told_by
from registry.errors import IntegrityError, NotYetError
from registry.publishing import stated_verdict
from registry.quarantines import doubt, lost_changes
from registry.queries import View
from registry.records import Draft
from registry.revocations import found_beside, verify_revocation
from registry.standing import Standing, StandingChange, held_by
from registry.statements import Statements, envelope_start, statements_of
from registry.summaries import summary_among
from registry.trust import Purpose, Trust
from registry.types import Engine, Result, Verdict, Waiver
from registry.waivers import disbelieved_ending, ended_together, ending_among


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


def anything_beside(said: Statements, recorded: Collection[Digest]) -> bool:
    """Says whether there is anything that `find_lost` would look at; reads nothing.

    Verdicts that are recorded are nothing to look at.
    """
    known = {one.short for one in recorded}
    return bool(
        any(said.names(kind) for kind in _LOOKED_AT)
        or any(envelope_start(name) not in known for name in said.names(Purpose.VERDICT))
    )


def find_lost(
    view: View, store: BlobStore, engine: Engine, trust: Trust, now: datetime, *,
    brought: bool = False,
) -> Lost:  # fmt: skip
    """Returns what a catalogue lost of what lies beside an engine; changes nothing.

    What it has of waivers may be from before what it lost: it was restored, or they were brought
    just now, with a bundle.

    Raises NotYetError for a verdict, or the end of a waiver, of a time that has not come here: who
    left it out because of a wrong clock would let what it closed open.
    """
    said = statements_of(store, engine)
    changes, verdicts = view.standing(engine.digest), view.verdicts(engine.digest)
    waivers = view.waivers(engine.digest)
    recorded = {one.envelope for one in changes}
    signed, doubtful = _revocations(said, engine, trust, now)
    found, doubts = _unrecorded(verdicts, said, engine, trust, now)
    endings, disbelieved = _endings(waivers, said, engine, trust, now)
    lost = tuple(_lost_verdicts(verdicts, found))
    restored = bool(doubts or disbelieved) and bool(view.unchecked())
    if not any(one.result is Result.PASS for one in lost):  # else what is lost may have closed it
        passed = any(one.result is Result.PASS for one in verdicts)
        waived = any(one.ending is None for one in waivers)
        may_open = (restored and (passed or waived)) or (brought and waived)
        doubts = doubts if may_open else []
    if restored or brought:
        doubts = [*doubts, *disbelieved]
    return Lost(
        tuple(one for one in signed if one.envelope not in recorded),
        tuple(one for one in doubtful if one.envelope not in recorded),
        () if signed else lost_changes(said, engine, changes, trust, now, doubts=doubts),
        endings,
        lost,
    )


def _endings(
    waivers: Sequence[Waiver], beside: Statements, engine: Engine, trust: Trust, now: datetime
) -> tuple[tuple[tuple[Digest, str], ...], list[StandingChange]]:
    """Returns the waivers that ended, each with what says so, and what cannot be believed of it."""
    open_ones = [one for one in waivers if one.ending is None]
    if not open_ones:
        return (), []
    known = {told_by(one.ending.encode()) for one in waivers if one.ending is not None}
    said = {name: beside.read(name) for name in beside.names(layout.WAIVER_END)}
    endings = ((one.digest, _ending(said, one, beside, trust)) for one in open_ones)
    doubts = (
        doubt(engine, name, one, why, now)
        for name, one in said.items()
        if told_by(one) not in known
        if (why := disbelieved_ending(one, engine, trust)) is not None
    )
    return tuple((digest, one) for digest, one in endings if one is not None), list(doubts)


def _ending(
    said: Mapping[str, bytes], waiver: Waiver, beside: Statements, trust: Trust
) -> str | None:
    for name, envelope in said.items():
        try:
            found = ending_among((envelope,), waiver, trust)
        except NotYetError as error:
            raise _of_a_time_to_come(error, beside, name) from error
        if found is not None:
            return found
    return None


def _of_a_time_to_come(error: NotYetError, beside: Statements, name: str) -> NotYetError:
    """Says of a document in the store what it stops, and how that ends."""
    return NotYetError(
        error.what,
        where=f"{beside.store.url}/{name}",
        actual=error.actual,
        expected=error.expected,
        remedy="set the clock of this machine right; if the signer's was wrong, have what it says "
        "signed again, and take the document away",
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


def _unrecorded(
    recorded: Sequence[Verdict], beside: Statements, engine: Engine, trust: Trust, now: datetime
) -> tuple[list[Verdict], list[StandingChange]]:
    """Returns the verdicts beside an engine that are not recorded, and what cannot be believed."""
    known = {one.digest.short for one in recorded}
    said = {told_by(one.envelope.encode()) for one in recorded}
    found, doubts = [], []
    for name in beside.names(Purpose.VERDICT):
        if envelope_start(name) in known:
            continue
        envelope = beside.read(name)
        if told_by(envelope) in said:  # a recorded one in another envelope
            continue
        try:
            verdict = stated_verdict(engine, envelope, trust, now)
        except NotYetError as error:
            raise _of_a_time_to_come(error, beside, name) from error
        except IntegrityError as error:
            doubts.append(doubt(engine, name, envelope, error.what, now))
            continue
        found.append(replace(verdict, path=beside.document(engine.digest, verdict.document)))
    summaries = list(beside.envelopes(layout.SUMMARY)) if found else []
    return [replace(one, vsa=summary_among(summaries, engine, one, trust)) for one in found], doubts


def _lost_verdicts(recorded: Sequence[Verdict], found: Sequence[Verdict]) -> Iterator[Verdict]:
    """Yields the verdicts that were found beside an engine, as they are to be recorded.

    When each was recorded is lost with the rows, and the latest of them decided: so all that are no
    pass come after the passes, however early they were issued, and what is judged from now on
    decides. A pass that was issued before what is recorded of the same environment would decide
    nothing, and is no loss.
    """
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


def take_in_beside(
    draft: Draft,
    engine: Engine,
    look: Callable[..., Lost],
    also: Callable[[Draft, Engine], object] | None,
) -> None:
    """Records what was lost of an engine, after what `also` records of it.

    What held it before that holds it still: a pass that `also` records is not lost then. The look
    (`find_lost`) is told whether `also` brought waivers.
    """
    if also is None:
        take_in(draft, look())
        return
    before, waivers = look(), draft.waivers(engine.digest)
    also(draft, engine)
    take_in(draft, look(brought=len(draft.waivers(engine.digest)) > len(waivers)))
    take_in(draft, Lost(holds=before.holds))


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
        # What is no envelope is named by the reason.
        if (change.envelope or change.reason) in {one.envelope or one.reason for one in recorded}:
            continue
        held = held_by(recorded)
        if held is not None and held.kind is Standing.REVOKED:  # meanwhile
            break
        if held or change.kind is Standing.QUARANTINED:
            draft.add_standing(change)
    return taken
