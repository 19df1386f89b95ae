"""Which engine runs where: from the evidence that nodes gave, with its age.

What is known of an engine (model, recipe) is the catalogue's; that it is on a node is the node's
word, and every answer says how old that is and whether a process was seen to run it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, NamedTuple

from enginekeeper.errors import InputError
from enginekeeper.fleet.health import STALE_AFTER
from registry.digests import Digest
from registry.errors import RecordNotFoundError
from registry.fleet.types import NamedEngine, Placed, WhereFilter
from registry.queries import View
from registry.types import EngineFilter
from registry.versions import VersionRange

_WHOLE = re.compile(r"[^:]+:[0-9a-f]{64}")
_REFERENCE = re.compile(r"(?:[a-z0-9][a-z0-9-]*:)?[0-9a-f]{4,64}")


@dataclass(frozen=True)
class Question:
    """What is asked; what is None is not."""

    model: str | None = None
    engine: str | None = None
    """An id or the start of one; the catalogue need not know it."""
    recipe: str | None = None
    channel: str | None = None
    cuda: VersionRange | None = None
    """CUDA runtimes that engines were built with."""
    node: str | None = None
    gpu_uuid: str | None = None
    driver: VersionRange | None = None
    at: datetime | None = None
    limit: int | None = None


class Whereabouts(NamedTuple):
    """An engine on a node, with what the catalogue knows of it; there may be thousands."""

    placed: Placed
    named: NamedEngine | None
    """None for an engine that the catalogue does not know."""
    asked_at: datetime
    stale: bool

    @property
    def age(self) -> timedelta | None:
        """Since the node was heard last; None if it never was."""
        return None if self.placed.seen_at is None else self.asked_at - self.placed.seen_at

    @property
    def evidence(self) -> str:
        """How it is known: a process seen on a GPU, a process declared, or files on disk alone."""
        return self.placed.running or "on disk"

    def as_dict(self) -> dict[str, Any]:
        """Returns the answer as a JSON object."""
        one, named, age = self.placed, self.named, self.age
        return {
            "node": one.node,
            "simulated": one.simulated,
            "engine": one.engine,
            "model": None if named is None else named.model,
            "recipe": None if named is None else named.recipe,
            "target": None if named is None else named.target,
            "variant": None if named is None else named.variant,
            "path": one.path,
            "bytes": one.bytes,
            "evidence": self.evidence,
            "gpus": list(one.devices or ()),
            "driver": one.driver,
            "since": one.since.isoformat(),
            "until": None if one.until is None else one.until.isoformat(),
            "heartbeat_age_seconds": None if age is None else int(age.total_seconds()),
            "stale": self.stale,
        }


def whereabouts(
    view: View, question: Question, now: datetime, *, stale_after: timedelta = STALE_AFTER
) -> list[Whereabouts]:
    """Answers a question, by node and path; raises InputError for what is no id of an engine.

    Raises RecordNotFoundError for a time of which the history was pruned.
    """
    _require_known(view, question.at)
    start = _start(question.engine)
    whole = start if start is not None and _WHOLE.fullmatch(start) else None
    wanted = WhereFilter(
        node=question.node, gpu_uuid=question.gpu_uuid, driver=question.driver,
        engine=whole, engine_start=None if whole else start,
        engines=_engines(view, question), at=question.at,
        # of a node's engines those on its other GPUs go yet: they must not use the limit up
        limit=question.limit if question.gpu_uuid is None else None,
    )  # fmt: skip
    found = view.fleet.where(wanted)
    if question.gpu_uuid is not None:
        found = [one for one in found if _is_on(one, question.gpu_uuid)][: question.limit]
    names = view.fleet.engines_named({one.engine for one in found})
    known = [names.get(one.engine) for one in found]
    heard = now - stale_after
    stale = [one.seen_at is None or one.seen_at < heard for one in found]
    rows = zip(found, known, repeat(now), stale)
    return list(map(Whereabouts._make, rows))


def _require_known(view: View, at: datetime | None) -> None:
    """Refuses a time of which a part of what was so may be gone."""
    horizon = None if at is None else view.fleet.horizon()
    if at is not None and horizon is not None and at < horizon:
        raise RecordNotFoundError(
            "what ran at that time was pruned",
            where="--at", actual=at.isoformat(timespec="seconds"),
            expected=f"a time from {horizon.isoformat(timespec='seconds')} on",
            remedy="a backup of the catalogue from before the prune has it",
        )  # fmt: skip


def _engines(view: View, question: Question) -> tuple[str, ...] | None:
    """Returns the engines that what is asked of engines leaves; None where nothing is."""
    found: set[Digest] | None = None
    wanted = EngineFilter(model=question.model, recipe=question.recipe, cuda=question.cuda)
    if wanted != EngineFilter():
        found = set(view.fleet.engine_ids(wanted))
    if question.channel is not None:
        positions = view.channels(question.model)
        on_it = {one.engine for one in positions if one.channel == question.channel}
        found = on_it if found is None else found & on_it
    return None if found is None else tuple(sorted(map(str, found)))


def _start(reference: str | None) -> str | None:
    """Returns how the id of an engine begins."""
    if reference is None:
        return None
    text = reference.strip().lower()
    if not _REFERENCE.fullmatch(text):
        raise InputError(
            "cannot be the id of an engine",
            actual=ascii(reference)[:120],
            expected="4 to 64 hexadecimal digits, with or without `sha256:`",
        )
    return text if ":" in text else f"sha256:{text}"


def _is_on(one: Placed, gpu_uuid: str) -> bool:
    """Says whether an engine may be on a GPU: it was seen there, or nobody knows where it is."""
    return not one.devices or gpu_uuid in one.devices


def short(engine: str) -> str:
    """Returns the twelve digits of an engine's id that people see."""
    return engine.partition(":")[2][:12]
