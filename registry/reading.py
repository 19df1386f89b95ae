"""What is asked for most, read as columns: engines, verdicts, and all that the gate decides by.

An object of the session costs two to three times the processor time of the same columns
(benchmarks/README.md), and these are asked for by every node. The statements are made once, so that
what SQLAlchemy derives from them is, too. What comes out is checked as ever: an id, a key or an
environment that is malformed raises.

Example:
    rows = session.execute(ENGINES.where(EngineRow.recipe == "fp8"))
    engines = [to_engine(row) for row in rows]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, bindparam, exists, select

from registry.environments import environment_from_dict
from registry.keys import EngineKey
from registry.models import (
    ChannelPositionRow,
    ChannelRow,
    CheckpointRow,
    EngineRow,
    EnvironmentRow,
    KeyRow,
    ModelRow,
    RestorationRow,
    StandingRow,
    VerdictRow,
    WaiverRow,
)
from registry.standing import StandingChange
from registry.types import Engine, Result, Verdict, Waiver

_VERDICT: tuple[Any, ...] = (
    VerdictRow.digest,
    EngineRow.digest.label("engine"),
    EnvironmentRow.document.label("environment"),
    VerdictRow.result,
    VerdictRow.fidelity,
    VerdictRow.quality,
    VerdictRow.summary,
    VerdictRow.document,
    VerdictRow.path,
    VerdictRow.envelope,
    VerdictRow.simulated,
    VerdictRow.issued_at,
    VerdictRow.recorded_at,
    VerdictRow.vsa,
)


def _select(*columns: Any) -> Select[Any]:  # noqa: ANN401 - columns of any kind
    return select(*columns)


ENGINES = (
    _select(
        EngineRow.digest,
        KeyRow.hard,
        EngineRow.soft,
        EngineRow.info,
        ModelRow.digest.label("model"),
        ModelRow.name.label("model_name"),
        EngineRow.recipe,
        EngineRow.target,
        EngineRow.variant,
        CheckpointRow.digest.label("checkpoint"),
        EngineRow.size,
        EngineRow.path,
        EngineRow.provenance,
        EngineRow.simulated,
        EngineRow.recorded_at,
    )
    .select_from(EngineRow)
    .join(EngineRow.key)
    .join(EngineRow.model)
    .outerjoin(EngineRow.checkpoint)
)
"""Engines with their keys and models, for `to_engine`."""

VERDICTS = _select(*_VERDICT).join(VerdictRow.engine).join(VerdictRow.environment)
"""Verdicts with their engines and environments, for `to_verdict`."""

ENGINE = ENGINES.where(EngineRow.digest == bindparam("engine"))
"""The engine with exactly this id."""

POSITIONED = (
    ENGINES.join(ChannelPositionRow, ChannelPositionRow.engine_id == EngineRow.id)
    .join(ChannelPositionRow.channel)
    .where(ChannelRow.name == bindparam("channel"), ChannelRow.model_name == bindparam("named"))
    .order_by(ChannelPositionRow.target)
)
"""What a channel resolves to on each target of a model, by target."""

POSITIONED_FOR = POSITIONED.where(
    KeyRow.gpu_product == bindparam("product"),
    KeyRow.compute_capability == bindparam("capability"),
    KeyRow.cuda_runtime == bindparam("cuda"),
)
"""The same, of engines whose keys were made for one kind of GPU and one CUDA runtime."""

RECORDED = (
    _select(
        *_VERDICT,
        exists().where(StandingRow.engine_id == EngineRow.id).label("changed"),
        exists().where(WaiverRow.engine_id == EngineRow.id).label("waived"),
        exists().where(RestorationRow.checked_at.is_(None)).label("unchecked"),
    )
    .select_from(EngineRow)
    .outerjoin(VerdictRow, VerdictRow.engine_id == EngineRow.id)
    .outerjoin(VerdictRow.environment)
    .where(EngineRow.digest == bindparam("recorded"))
    .order_by(VerdictRow.id.desc())
)
"""The verdicts on an engine, newest first, and whether there is more that the gate decides by.

An engine that was never judged is one row without a verdict.
"""


@dataclass(frozen=True)
class Recorded:
    """All that the catalogue says of an engine and the gate decides by, newest first."""

    verdicts: Sequence[Verdict]
    standing: Sequence[StandingChange]
    waivers: Sequence[Waiver]
    """Ended ones too."""
    unchecked: bool
    """Whether the catalogue was restored, and may lack what was signed since."""


def to_engine(row: Row[Any]) -> Engine:
    """Returns a row of `ENGINES` as a value, with its key."""
    return Engine(
        digest=row.digest,
        key=EngineKey(row.hard, row.soft, row.info),
        model=row.model,
        model_name=row.model_name,
        recipe=row.recipe,
        target=row.target,
        variant=row.variant,
        checkpoint=row.checkpoint,
        size=row.size,
        path=row.path,
        provenance=row.provenance,
        simulated=row.simulated,
        recorded_at=row.recorded_at,
    )


def to_verdict(row: Row[Any]) -> Verdict:
    """Returns a row of `VERDICTS` as a value."""
    return Verdict(
        digest=row.digest,
        engine=row.engine,
        environment=environment_from_dict(row.environment),
        result=Result(row.result),
        fidelity=row.fidelity,
        quality=row.quality,
        summary=row.summary,
        document=row.document,
        path=row.path,
        envelope=row.envelope,
        simulated=row.simulated,
        issued_at=row.issued_at,
        recorded_at=row.recorded_at,
        vsa=row.vsa,
    )
