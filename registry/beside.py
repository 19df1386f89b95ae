"""What lies signed beside an engine in the store, and counts again where the catalogue lost it.

Revocations, and the ends of waivers: a catalogue that was restored, edited or swept may lack their
rows. They are looked for before an engine gets anywhere: when it, or a waiver for it, is published,
when a channel is moved to it, and by a scrub. The gate looks while the catalogue says that it was
restored from a backup and nobody has scrubbed since; it records nothing.

Example:
    with catalogue.read() as view:
        lost = find_lost(view, store, engine, trust, now)
    with catalogue.edit() as draft:
        take_in(draft, lost)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from registry import layout
from registry.blobs.interface import BlobStore
from registry.digests import Digest
from registry.queries import View
from registry.records import Draft
from registry.revocations import found_beside, revocations_beside
from registry.standing import Standing, StandingChange, held_by
from registry.trust import Purpose, Trust
from registry.types import Engine, Waiver
from registry.waivers import ended_together, ending_among, endings_beside


@dataclass(frozen=True)
class Lost:
    """What the catalogue does not have of what lies beside an engine."""

    revocations: tuple[StandingChange, ...] = ()
    endings: tuple[tuple[Digest, str], ...] = ()
    """Waivers that have ended, each with the envelope that says so."""
    unread: str | None = None
    """Why it could not be told; None where it could."""

    def __bool__(self) -> bool:
        """Says whether there is anything to take in."""
        return bool(self.revocations or self.endings)

    def among_waivers(self, waivers: Iterable[Waiver]) -> list[Waiver]:
        """Returns recorded waivers, those that were ended with the statement that ended them."""
        ended = dict(self.endings)
        return ended_together(
            replace(one, ending=ended[one.digest]) if one.digest in ended else one
            for one in waivers
        )


NOTHING_LOST = Lost()


def anything_beside(store: BlobStore, engine: Engine) -> bool:
    """Says whether there is anything that `find_lost` would look at: one listing, nothing read."""
    wanted = tuple(
        layout.attestation_prefix(engine.path, kind)
        for kind in (Purpose.REVOCATION, layout.WAIVER_END)
    )
    names = store.list_documents(layout.attestation_folder(engine.path))
    return any(name.startswith(wanted) for name in names)


def find_lost(view: View, store: BlobStore, engine: Engine, trust: Trust, now: datetime) -> Lost:
    """Returns what a catalogue lost of what lies beside an engine; changes nothing."""
    changes = view.standing(engine.digest)
    waivers = [one for one in view.waivers(engine.digest) if one.ending is None]
    recorded = {one.envelope for one in changes}
    found = [
        found_beside(engine, envelope, trust, now) for envelope in revocations_beside(store, engine)
    ]
    envelopes = endings_beside(store, engine) if waivers else ()
    endings = ((one.digest, ending_among(envelopes, one, trust)) for one in waivers)
    return Lost(
        tuple(one for one in found if one.envelope not in recorded),
        tuple((digest, ending) for digest, ending in endings if ending is not None),
    )


def take_in(draft: Draft, lost: Lost) -> int:
    """Records what was lost; returns how many revocations, of which one is enough."""
    taken = 0
    for change in lost.revocations:
        held = held_by(draft.standing(change.engine))
        if held is None or held.kind is not Standing.REVOKED:
            draft.add_standing(change)
            taken += 1
    for waiver, ending in lost.endings:
        draft.end_waiver(waiver, ending)
    return taken
