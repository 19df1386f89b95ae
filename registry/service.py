"""The registry: publishes, judges, finds and hands out, over one catalogue and one store.

Rules:

- publishing goes blobs → manifest → signature → catalogue row → channel; every step may be run
  again, and until the row is there nobody sees anything;
- nothing enters that does not verify: signatures, digests, and what is said to be simulated;
- nothing leaves that does not verify, either;
- an engine gets into a channel through the gate and in no other way.

Example:
    registry = Registry(open_catalogue(...), open_store(...), trust, compatibility)
    engine = registry.publish_engine(EnginePublication(...))
    registry.record_verdict(engine.digest, document, envelope)
    registry.set_channel("prod", engine.digest, environment, actor="anna")
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from registry.attestations import Statement
from registry.beside import NOTHING_LOST, Lost, find_lost, take_in, take_in_beside
from registry.blobs.interface import BlobStore
from registry.catalogue import Catalogue
from registry.digests import Digest, digest_bytes
from registry.documents import read_object
from registry.environments import DriverScope, Environment, judged_there
from registry.errors import IntegrityError, NotYetError, StoreUnavailableError
from registry.freshness import Freshness, SnapshotReader
from registry.gate import Compatibility, GateDecision
from registry.judge import Judge
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.moving import Mover
from registry.names import check_component
from registry.nearest import Neighbour, nearest
from registry.outdated import without_outdated
from registry.publishing import (
    CheckpointPublication,
    EnginePublication,
    Publisher,
    ReferencePublication,
)
from registry.queries import View
from registry.records import Draft
from registry.resolution import Meets, Resolution, resolve
from registry.snapshots import RegistryState, state_of
from registry.standing import Standing, StandingChange, held_by, held_error
from registry.transfer import fetch_artifact, heal_artifact, load_manifest, require_stored
from registry.trust import Trust, utc_now
from registry.types import (
    ChannelMove,
    ChannelPosition,
    Checkpoint,
    Engine,
    EngineFilter,
    Model,
    Place,
    Qualification,
    Reference,
    Restoration,
    Verdict,
    Waiver,
)
from registry.verification import (
    Signature,
    build_signature,
    is_withdrawn,
    summary_signature,
    verdict_signature,
    verify_engine,
    verify_recorded_reference,
    verify_verdict,
    waiver_signature,
)
from registry.waivers import Waivable, counts
from registry.withdrawal import Loss, losses
from registry.writing import UNNAMED


@dataclass(frozen=True)
class Registry:
    """One registry: a catalogue, a store, whom it trusts, and what can work where."""

    catalogue: Catalogue
    store: BlobStore
    trust: Trust
    compatibility: Compatibility
    driver_scope: DriverScope = DriverScope.EXACT
    actor: str = UNNAMED
    """Who the audit log says did it."""
    snapshots: SnapshotReader | None = None
    """Reads the signed snapshot, where this machine can remember what it has seen."""
    clock: Callable[[], datetime] = field(default=utc_now)

    def record_model(self, digest: Digest, name: str, *, source: str, architecture: str) -> Model:
        """Records source weights; everything else hangs on them."""
        check_component(name, where="model")
        model = Model(digest, name, source, architecture, self.clock())
        with self.catalogue.edit(actor=self.actor) as draft:
            return draft.add_model(model)

    def publish_checkpoint(self, publication: CheckpointPublication) -> Checkpoint:
        """Publishes a checkpoint; publishing the same one again returns it."""
        return self._publisher().checkpoint(publication)

    def publish_engine(
        self, publication: EnginePublication, also: Callable[[Draft, Engine], object] | None = None
    ) -> Engine:
        """Publishes an engine whose build a trusted builder signed; again returns it.

        What `also` records, and what lies signed beside the engine, is seen with it or not at all.
        """
        trust = self._judge().trusting

        def record(draft: Draft, engine: Engine) -> None:
            # These bytes may have been swept since, and what stops them stays.
            look = partial(find_lost, draft, self.store, engine, trust, self.clock())
            take_in_beside(draft, engine, look, also)

        return self._publisher().engine(publication, record)

    def record_reference(self, publication: ReferencePublication) -> Reference:
        """Publishes a reference that a trusted recorder signed; again returns it."""
        return self._publisher().reference(publication)

    def record_verdict(
        self, engine: str | Digest, document: Mapping[str, Any], envelope: bytes,
        vsa: bytes | None = None,
    ) -> Verdict:  # fmt: skip
        """Publishes a verdict that a trusted validator signed; a pass qualifies the engine."""
        found = self.engine(engine)
        # What was said of it before is recorded before it, or it would count more one day.
        self.take_in_revocations(found, judgements=True)
        return self._publisher().verdict(found, document, envelope, vsa)

    def grant_waiver(self, engine: str | Digest, envelope: bytes) -> Waiver:
        """Publishes a waiver that approvers signed."""
        return self._publisher().waiver(self.engine(engine), envelope)

    def end_waiver(self, waiver: str | Digest, envelope: bytes) -> Waiver:
        """Publishes that approvers ended a waiver before its time."""
        found = self.waiver(waiver)
        return self._publisher().waiver_end(self.engine(found.engine), found, envelope)

    def waiver(self, reference: str | Digest) -> Waiver:
        """Returns the waiver with an id or an unambiguous start of one."""
        with self.catalogue.read() as view:
            return view.waiver(reference)

    def waivers(self, engine: str | Digest | None = None) -> list[Waiver]:
        """Returns the waivers of one engine or of all, newest first, ended ones too."""
        with self.catalogue.read() as view:
            return view.waivers(None if engine is None else view.engine(engine).digest)

    def waivers_in_force(
        self, engines: Sequence[Waivable], granted: Iterable[Waiver] | None = None
    ) -> dict[Digest, list[Waiver]]:
        """Returns the waivers of each engine that count now, wherever they do, newest first.

        Of those that were granted, or of some of them as `View.waivers` gave them.
        """
        now, longest = self.trust.clock(), self.trust.longest_waiver
        known = {one.digest: one for one in engines}
        found: dict[Digest, list[Waiver]] = {digest: [] for digest in known}
        for one in self.waivers() if granted is None else granted:
            engine = known.get(one.engine)
            if engine is None or one.state(now, longest) != "in force":
                continue
            if counts(engine, one, self.trust):
                found[one.engine].append(one)
        return found

    def waiver_signature(self, engine: Engine, waiver: Waiver) -> Signature:
        """Says who signed a waiver, and whether it counts."""
        return waiver_signature(engine, waiver, self.trust)

    def freshness(self) -> Freshness | None:
        """Says what the registry's snapshot is worth; None where the trust asks for none."""
        if not self.trust.snapshot_required:
            return None
        if self.snapshots is not None:
            return self.snapshots.freshness(self.store, self.trust)
        return Freshness(None, "this process cannot remember what it has seen")

    def state(self) -> RegistryState:
        """Returns the state that a snapshot vouches for, as catalogue and trust have it now."""
        return self.state_under(self.trust)

    def state_under(self, trust: Trust) -> RegistryState:
        """Returns that state under another trust."""
        with self.catalogue.read() as view:
            return state_of(view, trust)

    def set_channel(
        self, channel: str, engine: str | Digest, environment: Environment, *, actor: str
    ) -> ChannelPosition:
        """Lets a channel resolve to an engine for its model and target, if the gate is open.

        Raises the gate's error when it is not, IntegrityError when the store lost any of its
        files, ConflictError when somebody else moved the channel at the same time. Setting what
        is set already changes nothing.
        """
        check_component(channel, where="channel")
        return self._mover().set(channel, self.engine(engine), environment, actor=actor).position

    def rehearse_channel(
        self, channel: str, engine: str | Digest, environment: Environment
    ) -> GateDecision:
        """Returns what opens the gate to `set_channel`; raises what that would, keeps nothing."""
        check_component(channel, where="channel")
        found = self.engine(engine)
        mover = self._mover()
        return mover.set(channel, found, environment, actor=self.actor, dry_run=True).decision

    def roll_back(
        self, place: Place, *, actor: str, to: str | Digest | None = None,
        environment: Environment | None = None,
    ) -> ChannelPosition:  # fmt: skip
        """Lets a channel resolve to an earlier engine again, if the gate is open for it.

        Back to the one before, or to another one of its history. The gate is asked for the
        environment that the channel's latest move was for, unless told otherwise.
        """
        return self._mover().roll_back(place, to, environment, actor=actor).position

    def clear_channel(
        self, place: Place, *, actor: str, dry_run: bool = False
    ) -> ChannelMove | None:
        """Lets a place of a channel resolve to nothing; None where nothing was there."""
        return self._mover().clear(place, actor=actor, dry_run=dry_run)

    def rehearse_rollback(
        self, place: Place, *, to: str | Digest | None = None,
        environment: Environment | None = None,
    ) -> GateDecision:  # fmt: skip
        """Returns what opens the gate to `roll_back`; raises what that would, keeps nothing."""
        mover = self._mover()
        return mover.roll_back(place, to, environment, actor=self.actor, dry_run=True).decision

    def rollback_choices(
        self, place: Place, environment: Environment | None = None
    ) -> list[GateDecision]:
        """Returns what the gate says of every engine a channel can go back to, the next first."""
        return self._mover().choices(place, environment)

    def take_in_revocations(self, engine: Engine, *, judgements: bool = False) -> int:
        """Records what lies beside an engine and the catalogue lost; says how many revocations.

        The ends of waivers, quarantines, releases and verdicts are taken in, too, or verdicts only.
        """
        trust = self._judge().trusting
        with self.catalogue.read() as view:
            lost = find_lost(view, self.store, engine, trust, self.clock())
        if judgements:
            lost = lost.judgements
        if not lost:
            return 0
        with self.catalogue.edit(actor=self.actor) as draft:
            return take_in(draft, lost)

    def mark_checked(self, restorations: Collection[Restoration]) -> None:
        """Records that what lies beside every engine was taken in since some restorations."""
        if restorations:
            with self.catalogue.edit(actor=self.actor) as draft:
                draft.end_restorations(restorations, self.clock())

    def gate(
        self, engine: str | Digest, environment: Environment, *, simulated_node: bool = False
    ) -> GateDecision:
        """Decides whether an engine may run in an environment; raises nothing for a closed gate."""
        judge = self._judge()
        with self.catalogue.read() as view:
            found = view.engine(engine)
            return self._decided(view, judge, found, environment, simulated=simulated_node)

    def resolve(
        self, channel: str, model: str, where: Environment | Meets, *, simulated_node: bool = False
    ) -> Resolution:
        """Returns the engine that a channel means for a node, and what the gate says of it.

        The node is one environment, or a function that says what an engine meets on it.
        """
        judge = self._judge()
        with self.catalogue.read() as view:
            return resolve(
                view, channel, model, where,
                lambda one, place: self._decided(view, judge, one, place, simulated=simulated_node),
            )  # fmt: skip

    def nearest(self, wanted: EngineKey, *, limit: int = 3) -> list[Neighbour]:
        """Returns the engines that come nearest to a key, and the fields in which they differ."""
        with self.catalogue.read() as view:
            return nearest(view, wanted, limit=limit)

    def engine(self, reference: str | Digest) -> Engine:
        """Returns the engine with an id or an unambiguous start of one (4 digits or more)."""
        with self.catalogue.read() as view:
            return view.engine(reference)

    def engines(self, wanted: EngineFilter | None = None) -> list[Engine]:
        """Returns the engines that fit a filter, newest first."""
        with self.catalogue.read() as view:
            return view.engines(wanted)

    def held_engines(self) -> dict[Digest, Standing]:
        """Returns every engine that is quarantined or revoked."""
        with self.catalogue.read() as view:
            return view.held_engines()

    def held(self, engine: Engine) -> StandingChange | None:
        """Returns the quarantine or revocation that closes the gate on an engine, or None."""
        with self.catalogue.read() as view:
            return held_by(view.standing(engine.digest))

    def require_unheld(self, engine: Engine, *, unless_revoked: bool = False) -> None:
        """Raises GateClosedError for an engine that is quarantined or revoked: it goes nowhere.

        By the catalogue, by the snapshot, and for a restored catalogue by what lies beside it.
        Where a revocation goes with the engine, one that lies there signed may let it pass.
        """
        judge = self._judge()
        with self.catalogue.read() as view:
            lost = self._lost(view, judge, engine, unchecked=bool(view.unchecked()))
            held = held_by((*lost.standing, *view.standing(engine.digest)))
        if unless_revoked and held and held.kind is Standing.REVOKED and held not in lost.doubtful:
            return
        said = lost.unread if held is None else str(held)
        if said is None and (fresh := judge.freshness) and fresh.revokes(engine.digest):
            said = "the signed snapshot says that it was revoked"
        if said is not None:
            raise held_error(engine.digest, said)

    def checkpoint(self, reference: str | Digest) -> Checkpoint:
        """Returns the checkpoint with an id or an unambiguous start of one."""
        with self.catalogue.read() as view:
            return view.checkpoint(reference)

    def references(
        self, model: Digest | None = None, *, key: Digest | None = None
    ) -> list[Reference]:
        """Returns the references of one model or of one key, or all, newest first."""
        with self.catalogue.read() as view:
            return view.references(model, key=key)

    def verdicts(self, engine: str | Digest) -> list[Verdict]:
        """Returns every verdict on an engine, newest first."""
        with self.catalogue.read() as view:
            return view.verdicts(view.engine(engine).digest)

    def verdict_there(self, engine: Engine, environment: Environment) -> Verdict | None:
        """Returns the verdict that decides in an environment; None where there is none."""
        there = judged_there(self.verdicts(engine.digest), environment, self.driver_scope)
        return next(iter(without_outdated(there)), None)

    def latest_verdicts(self, engines: Sequence[Engine]) -> dict[Digest, Verdict]:
        """Returns the newest verdict on each engine, wherever; none for one never judged."""
        with self.catalogue.read() as view:
            return view.latest_verdicts([one.digest for one in engines])

    def qualifications(self, engine: str | Digest | None = None) -> list[Qualification]:
        """Returns where one engine, or any, passed, newest first."""
        with self.catalogue.read() as view:
            return view.qualifications(None if engine is None else view.engine(engine).digest)

    def channels(self, model_name: str | None = None) -> list[ChannelPosition]:
        """Returns what every channel resolves to."""
        with self.catalogue.read() as view:
            return view.channels(model_name)

    def channel_history(self, channel: str, model_name: str) -> list[ChannelMove]:
        """Returns every move of a channel, newest first."""
        with self.catalogue.read() as view:
            return view.moves(channel, model_name)

    def model(self, reference: str | Digest) -> Model:
        """Returns the model with a digest or an unambiguous start of one."""
        with self.catalogue.read() as view:
            return view.model(reference)

    def verify_engine(self, engine: Engine) -> Statement:
        """Returns an engine's build statement; raises IntegrityError unless it was signed so."""
        return verify_engine(engine, self.trust)

    def is_withdrawn(self, artifact: Engine | Reference) -> bool:
        """Says whether the signer of an artifact is not trusted any more for what it signed."""
        return is_withdrawn(artifact, self.trust)

    def verify_verdict(self, engine: Engine, verdict: Verdict) -> None:
        """Raises IntegrityError unless a trusted validator signed exactly this verdict."""
        verify_verdict(engine, verdict, self.trust)

    def losses(self, trust: Trust) -> list[Loss]:
        """Returns what counts now and would not under another trust."""
        with self.catalogue.read() as view:
            return list(losses(view, self.trust, trust))

    def signatures(self, engine: Engine, verdicts: Sequence[Verdict]) -> list[Signature]:
        """Says who signed an engine and verdicts on it, in this order, and whether it counts."""
        build = build_signature(engine, self.trust)
        return [build, *(verdict_signature(engine, one, self.trust) for one in verdicts)]

    def summary_signature(self, engine: Engine, verdict: Verdict) -> Signature | None:
        """Says who signed the summary of a verdict; None for a verdict without one."""
        return summary_signature(engine, verdict, self.trust)

    def verdict_document(self, verdict: Verdict) -> dict[str, Any]:
        """Returns the evidence of a verdict; raises IntegrityError if it is not the signed one."""
        data = self.store.get_document(verdict.path)
        if digest_bytes(data) != verdict.document:
            raise IntegrityError(
                "the verdict document is not the one that was signed",
                where=f"{self.store.url}/{verdict.path}",
                actual=digest_bytes(data), expected=verdict.document,
            )  # fmt: skip
        return read_object(data, where=verdict.path)

    def fetch_engine(self, reference: str | Digest, destination: Path) -> Engine:
        """Writes an engine's files after verifying signature, manifest and every byte.

        Says nothing about whether it may run here: that is the gate's to say.
        """
        engine = self.engine(reference)
        self.verify_engine(engine)
        fetch_artifact(self.store, self.manifest(engine), destination)
        return engine

    def require_stored(self, engine: Engine) -> None:
        """Raises IntegrityError unless every file of an engine is in the store; reads none."""
        require_stored(self.store, self.manifest(engine))

    def heal_engine(self, reference: str | Digest, directory: Path) -> list[str]:
        """Puts an engine's files back from a good copy; returns those that were lost or damaged.

        Raises IntegrityError unless the directory holds exactly the engine that was signed.
        """
        engine = self.engine(reference)
        self.verify_engine(engine)
        key, simulated = engine.key.digest(), engine.simulated
        manifest = Manifest.of_directory(directory, "engine", key=key, simulated=simulated)
        if manifest.digest != engine.digest:
            raise IntegrityError(
                "the directory does not hold this engine",
                where=str(directory), actual=manifest.digest, expected=engine.digest,
                remedy="name the directory of a good copy: enginekeeper where lists copies here",
            )  # fmt: skip
        return heal_artifact(self.store, directory, manifest, engine.path)

    def manifest(self, engine: Engine) -> Manifest:
        """Returns an engine's manifest; raises IntegrityError when it is not there or another."""
        return load_manifest(self.store, engine.path, engine.digest)

    def fetch_checkpoint(self, reference: str | Digest, destination: Path) -> Checkpoint:
        """Writes a checkpoint's files after verifying its manifest and every byte."""
        checkpoint = self.checkpoint(reference)
        manifest = load_manifest(self.store, checkpoint.path, checkpoint.digest)
        fetch_artifact(self.store, manifest, destination)
        return checkpoint

    def fetch_reference(self, reference: Reference, destination: Path) -> None:
        """Writes a reference's files after verifying signature, manifest and every byte."""
        verify_recorded_reference(reference, self.trust)
        manifest = load_manifest(self.store, reference.path, reference.digest)
        fetch_artifact(self.store, manifest, destination)

    def locate(self, path: str) -> str:
        """Returns the full address of a path in the store, for a person to look at."""
        return f"{self.store.url}/{path}"

    def _decided(
        self, view: View, judge: Judge, engine: Engine, environment: Environment, *,
        simulated: bool,
    ) -> GateDecision:  # fmt: skip
        recorded = view.recorded(engine.digest)
        lost = self._lost(view, judge, engine, unchecked=recorded.unchecked)
        return judge.decide(engine, recorded, environment, simulated_node=simulated, lost=lost)

    def _lost(self, view: View, judge: Judge, engine: Engine, *, unchecked: bool) -> Lost:
        """Returns what a restored catalogue lacks about an engine; nothing for one that was not."""
        if not unchecked:
            return NOTHING_LOST
        try:
            return find_lost(view, self.store, engine, judge.trusting, self.clock())
        except (StoreUnavailableError, NotYetError) as error:
            return Lost(unread=str(error))

    def _judge(self) -> Judge:
        return Judge(self.trust, self.compatibility, self.driver_scope, self.freshness())

    def _mover(self) -> Mover:
        return Mover(self.catalogue, self.store, self._judge(), self.clock)

    def _publisher(self) -> Publisher:
        return Publisher(self.catalogue, self.store, self.trust, self.clock, self.actor)
