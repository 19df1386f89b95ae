"""Taking an engine out of use: quarantine, release, revocation, and whom it would touch.

Rules:

- a quarantine needs no key and is undone by a release; a revocation is signed and final; all three
  lie beside the engine, where no lost catalogue loses them (`registry.quarantines`);
- the gate closes at once; channels and nodes stay as they are until somebody moves them, so that
  what serves is not stopped by the way;
- the statement of a revocation is in the store before its row is in the catalogue.

Example:
    radius = blast_radius(registry, engine)
    revoke(registry, engine, "wrong tokens on long prompts", signer)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from securesystemslib.signer import Signer

from registry.attestations import sign
from registry.channels import way_back
from registry.errors import ConflictError, InvalidRecordError, StoreUnavailableError
from registry.quarantines import keep_beside, lost_changes, quarantines_to_end, sealed_change
from registry.revocations import Revocation, revocation, verify_revocation
from registry.service import Registry
from registry.standing import Standing, StandingChange, check_may_follow, held_by
from registry.statements import put_statement, statements_of
from registry.trust import Purpose
from registry.types import ChannelPosition, Engine, EngineFilter, Entity, Place, Placement

_MAX_REASON = 1000  # characters


@dataclass(frozen=True)
class BlastRadius(Entity):
    """Whom it touches when an engine may not run any more."""

    engine: Engine
    held: StandingChange | None
    """What holds it already."""
    channels: tuple[ChannelPosition, ...]
    """What resolves to it now."""
    rollbacks: tuple[ChannelPosition, ...]
    """What a rollback would lead back to it, now or later; with what it resolves to now."""
    placements: tuple[Placement, ...]
    """Where it is known to lie."""
    siblings: tuple[Engine, ...]
    """Other engines of the same checkpoint: if that is at fault, so are they."""


def blast_radius(registry: Registry, engine: Engine) -> BlastRadius:
    """Returns whom the withdrawal of an engine touches, as far as the catalogue knows."""
    with registry.catalogue.read() as view:
        positions = view.channels(engine.model_name)
        back = {
            place
            for place, steps in view.steps(engine.model_name).items()
            if engine.digest in way_back(steps)
        }
        siblings: list[Engine] = []
        if engine.checkpoint is not None:
            siblings = view.engines(EngineFilter(checkpoint=engine.checkpoint))
        return BlastRadius(
            engine=engine,
            held=held_by(view.standing(engine.digest)),
            channels=tuple(one for one in positions if one.engine == engine.digest),
            rollbacks=tuple(
                one for one in positions if Place(one.channel, one.model_name, one.target) in back
            ),
            placements=tuple(view.placements(engine.digest)),
            siblings=tuple(one for one in siblings if one.digest != engine.digest),
        )


def quarantine(registry: Registry, engine: Engine, reason: str, *signers: Signer) -> StandingChange:
    """Closes the gate on an engine until it is released; again changes nothing.

    But where a release of it died before its row, it is held anew: that release would be taken in.
    The gate is closed first, then the statement is put beside the engine: where the store does not
    answer, StoreUnavailableError says that this is left, and the same once more does it.
    """
    with registry.catalogue.read() as view:
        recorded = view.standing(engine.digest)
    held = held_by(recorded)
    is_held = held is not None and held.kind is Standing.QUARANTINED
    if held is None or not is_held or _is_released_beside(registry, engine, recorded):
        change = _change(registry, Standing.QUARANTINED, engine, reason)
        envelope = sealed_change(engine, change, (), *signers)
        with registry.catalogue.edit(actor=registry.actor) as draft:
            held = draft.add_standing(replace(change, envelope=envelope.decode()))
    if held.envelope is not None:
        keep_beside(registry.store, engine, held.kind, held.envelope.encode())
    return held


def release(registry: Registry, engine: Engine, reason: str, *signers: Signer) -> StandingChange:
    """Ends a quarantine; raises ConflictError where there is none, or a revocation.

    Also where something that calls itself a revocation lies in the store: it counts while it does.
    What holds an engine of a restored catalogue from beside it is recorded first, to be released.
    Where no revoker signs it, the quarantine counts again in a catalogue that is restored from
    before the release. Where one does, and then the catalogue does not answer, the release stands:
    StoreUnavailableError says so.
    """
    change = _change(registry, Standing.RELEASED, engine, reason)
    with registry.catalogue.read() as view:
        is_restored = bool(view.unchecked())
    if is_restored:
        registry.take_in_revocations(engine)
    with registry.catalogue.read() as view:
        recorded = view.standing(engine.digest)
    check_may_follow(recorded, change)
    _require_none_beside(registry, engine)
    ends = quarantines_to_end(statements_of(registry.store, engine), recorded)
    envelope = sealed_change(engine, change, ends, *signers)
    keep_beside(registry.store, engine, change.kind, envelope)
    try:
        with registry.catalogue.edit(actor=registry.actor) as draft:
            return draft.add_standing(replace(change, envelope=envelope.decode()))
    except StoreUnavailableError as error:
        if _is_released_beside(registry, engine, recorded):
            raise _standing_release(error) from error
        raise


def revoke(registry: Registry, engine: Engine, reason: str, *signers: Signer) -> StandingChange:
    """Signs that an engine must not run any more, for good; again changes nothing.

    Raises IntegrityError when the signers are not trusted to revoke.
    """
    held = registry.held(engine)
    if held is not None and held.kind is Standing.REVOKED:
        return held
    said = Revocation(_checked(reason), registry.actor, registry.clock())
    envelope = sign(revocation(engine, said), *signers)
    verify_revocation(engine, envelope, registry.trust)
    put_statement(registry.store, engine.digest, Purpose.REVOCATION, envelope)
    change = StandingChange(
        engine.digest, Standing.REVOKED, said.reason, said.actor, said.revoked_at, envelope.decode()
    )
    with registry.catalogue.edit(actor=registry.actor) as draft:
        return draft.add_standing(change)


def _change(registry: Registry, kind: Standing, engine: Engine, reason: str) -> StandingChange:
    return StandingChange(engine.digest, kind, _checked(reason), registry.actor, registry.clock())


def _is_released_beside(
    registry: Registry, engine: Engine, recorded: Sequence[StandingChange]
) -> bool:
    """Says whether a signed release ends what holds an engine, and only its row is not there."""
    said = statements_of(registry.store, engine)
    lost = lost_changes(said, engine, recorded, registry.trust, registry.clock())
    return any(one.kind is Standing.RELEASED for one in lost)


def _standing_release(error: StoreUnavailableError) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{error.what}; the signed release stands beside the engine, and is taken in from there",
        where=error.where,
        actual=error.actual,
        expected=error.expected,
        remedy="release it again; if it is to stay held, quarantine it again",
        transient=error.transient,
    )


def _require_none_beside(registry: Registry, engine: Engine) -> None:
    beside = statements_of(registry.store, engine).names(Purpose.REVOCATION)
    if beside:
        raise ConflictError(
            "what calls itself a revocation of the engine lies in the store",
            where=f"engine {engine.digest.short}",
            actual=", ".join(f"{registry.store.url}/{name}" for name in beside),
            expected="none, of an engine that is to be released",
            remedy="find out who put it there; if it is genuine, let the trust file name its "
            "signer and scrub; if it is not, remove it and release the engine again",
        )


def _checked(reason: str) -> str:
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise InvalidRecordError(
            "say why, for whoever looks at this later",
            where="reason",
            actual=f"{len(reason)} characters",
            expected=f"1 to {_MAX_REASON}",
        )
    return reason.strip()
