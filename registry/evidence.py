"""Everything that is signed about one engine, in one document: verified without any catalogue.

Rules:

- nothing in it is believed but what the signatures in it cover: the names, the key and the
  weights are those that the builder signed, a verdict is what the validator signed;
- envelopes are kept to the byte, since their digests are what they are known by;
- whoever takes it in takes all of it or nothing: one statement that does not verify is enough;
- what a document leaves out cannot be told from it: a verdict that was taken out is not missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from registry import layout
from registry.digests import Digest, canonical_json
from registry.documents import check_schema, read_object
from registry.envelopes import signers_of
from registry.errors import IntegrityError, InvalidRecordError, RegistryError
from registry.keys import EngineKey
from registry.manifests import Manifest
from registry.names import check_line
from registry.publishing import check_manifest, signed_verdict, signed_waiver
from registry.revocations import verify_revocation
from registry.summaries import verify_summary
from registry.trust import Trust
from registry.types import Engine, EngineNames, Verdict
from registry.verification import verify_engine
from registry.waivers import verify_ending

SCHEMA = 1
_UNSIGNED = ("source", "architecture")
"""What is told of a model and nobody signed."""
EVIDENCE = "evidence.json"
_FIELDS = {
    "schema", "manifest", "key", "model", "recipe", "target", "variant", "build", "verdicts",
    "waivers", "revocations",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """What is told of the source weights; their digest and name are signed, the rest is not."""

    digest: Digest
    name: str
    source: str
    architecture: str


@dataclass(frozen=True)
class Judgement:
    """A verdict document, the statement that signs it, and its summary."""

    document: Mapping[str, Any]
    envelope: str
    summary: str | None = None


@dataclass(frozen=True)
class Permission:
    """A waiver, and the statement that ended it."""

    envelope: str
    ending: str | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what came of it."""

    what: str
    fault: str | None
    """None where it is as it should be."""
    signers: tuple[str, ...] = ()
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the check as a JSON object."""
        return {"what": self.what, "ok": self.fault is None, "signers": list(self.signers),
                "detail": self.detail, "fault": self.fault}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What is known of one engine."""

    manifest: Manifest
    key: EngineKey
    model: ModelFacts
    names: EngineNames
    build: str
    """DSSE envelope of the build statement."""
    judgements: tuple[Judgement, ...] = ()
    """Oldest first."""
    permissions: tuple[Permission, ...] = ()
    revocations: tuple[str, ...] = ()
    """DSSE envelopes of the statements that it must not run any more."""

    def engine(self, at: datetime) -> Engine:
        """Returns the engine that it is about, as a catalogue would have it."""
        names = self.names
        folder = layout.engine_path(
            names.model, names.recipe, names.target, self.key, self.manifest.digest
        )
        return Engine(
            digest=self.manifest.digest, key=self.key, model=self.model.digest,
            model_name=names.model, recipe=names.recipe, target=names.target,
            variant=names.variant, checkpoint=None, size=self.manifest.size, path=folder,
            provenance=self.build, simulated=self.manifest.simulated, recorded_at=at,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """Returns the document."""
        return canonical_json({
            "schema": SCHEMA,
            "manifest": self.manifest.as_dict(),
            "key": self.key.as_dict(),
            "model": {**vars(self.model), "digest": str(self.model.digest)},
            "recipe": self.names.recipe,
            "target": self.names.target,
            "variant": self.names.variant,
            "build": self.build,
            "verdicts": [
                {"document": dict(one.document), "envelope": one.envelope, "summary": one.summary}
                for one in self.judgements
            ],
            "waivers": [vars(one) for one in self.permissions],
            "revocations": list(self.revocations),
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Reads what `to_bytes` wrote; raises InvalidRecordError. Believes nothing of it yet."""
        document = read_object(data, where=EVIDENCE)
        check_schema(document, SCHEMA, where=EVIDENCE)
        if set(document) != _FIELDS:
            raise InvalidRecordError(
                "not the evidence of an engine", where=EVIDENCE, actual=sorted(document),
                expected=sorted(_FIELDS),
            )  # fmt: skip
        try:
            model = document["model"]
            facts = ModelFacts(
                Digest.parse(_text(model["digest"])), _text(model["name"]),
                *(check_line(_text(model[one]), where=f"{one} of the model") for one in _UNSIGNED),
            )  # fmt: skip
            names = EngineNames(
                facts.name, *(_text(document[name]) for name in ("recipe", "target", "variant"))
            )
            return cls(
                Manifest.from_dict(document["manifest"]),
                EngineKey.from_dict(document["key"]),
                facts,
                names,
                _text(document["build"]),
                tuple(_judgement(one) for one in document["verdicts"]),
                tuple(
                    Permission(_text(one["envelope"]), _optional(one["ending"]))
                    for one in document["waivers"]
                ),
                tuple(_text(one) for one in document["revocations"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidRecordError(
                f"not the evidence of an engine: {error}", where=EVIDENCE
            ) from error


def checks(evidence: Evidence, trust: Trust) -> Iterator[Check]:
    """Yields every statement with who signed it and whether it counts; the build comes first.

    A revocation is a fault however it is signed: it can only make things worse.
    """
    engine, now = evidence.engine(trust.clock()), trust.clock()
    of_key = partial(check_manifest, evidence.manifest, evidence.key)
    yield _check("manifest", None, of_key, str(engine.digest))
    yield _check("build", evidence.build, lambda: verify_engine(engine, trust), engine.variant)
    for one in evidence.judgements:
        yield from _judged(engine, one, trust, now)
    for permission in evidence.permissions:
        yield _permitted(engine, permission, trust, now)
    for envelope in evidence.revocations:
        fault = "it was revoked: do not load it"
        try:
            fault = f"{fault}: {verify_revocation(engine, envelope.encode(), trust).reason}"
        except IntegrityError as error:
            fault = f"{fault}, though nobody trusted signed that: {error.what}"
        yield Check("revocation", fault, signers_of(envelope.encode()))


def require(evidence: Evidence, trust: Trust) -> Engine:
    """Returns the engine; raises IntegrityError unless everything in the evidence verifies.

    A revocation that verifies is no fault here, one that does not is: taken in, it would hold the
    engine for good, and whoever carries the evidence could have put it there.
    """
    engine = evidence.engine(trust.clock())
    signed = [
        _check("revocation", one, partial(verify_revocation, engine, one.encode(), trust))
        for one in evidence.revocations
    ]
    for check in (*checks(replace(evidence, revocations=()), trust), *signed):
        if check.fault is not None:
            raise IntegrityError(
                f"the {check.what} does not verify",
                where=EVIDENCE, actual=check.fault,
                remedy="do not load it; ask its sender, and look at your trust file: "
                "enginekeeper key list",
            )  # fmt: skip
    return engine


def _judged(engine: Engine, one: Judgement, trust: Trust, now: datetime) -> Iterator[Check]:
    found: list[Verdict] = []

    def judged() -> None:
        found.append(signed_verdict(engine, one.document, one.envelope.encode(), trust, now))

    check = _check("verdict", one.envelope, judged)
    if not found:
        yield check
        return
    (verdict,) = found
    yield replace(check, detail=f"{verdict.result} on {verdict.environment}: {verdict.summary}")
    if one.summary is not None:
        data = one.summary.encode()
        yield _check(
            "summary", one.summary, lambda: verify_summary(engine, verdict, data, trust),
            f"of verdict {verdict.digest.short}",
        )  # fmt: skip


def _permitted(engine: Engine, one: Permission, trust: Trust, now: datetime) -> Check:
    said: list[str] = []

    def permitted() -> None:
        waiver = signed_waiver(engine, one.envelope.encode(), trust, now)
        if one.ending is not None:
            verify_ending(one.ending.encode(), waiver, trust)
        state = replace(waiver, ending=one.ending).state(now, trust.longest_waiver)
        said.append(f"{', '.join(waiver.rules)}: {state}, by {waiver.granted_by}: {waiver.reason}")

    check = _check("waiver", one.envelope, permitted)
    return replace(check, detail="".join(said))


def _check(what: str, envelope: str | None, run: Callable[[], object], detail: str = "") -> Check:
    signers = () if envelope is None else signers_of(envelope.encode())
    try:
        run()
    except RegistryError as error:
        return Check(what, str(error), signers, detail)
    return Check(what, None, signers, detail)


def _judgement(one: Mapping[str, Any]) -> Judgement:
    if not isinstance(one["document"], dict):
        raise TypeError("a verdict's document is an object")
    return Judgement(one["document"], _text(one["envelope"]), _optional(one["summary"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text is expected")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)
