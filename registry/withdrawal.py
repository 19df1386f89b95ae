"""What stops counting when the trust changes: shown before a key is revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from registry.errors import IntegrityError
from registry.queries import View
from registry.timing.statements import verify_cache
from registry.trust import Trust
from registry.types import Engine, Waiver
from registry.verification import verify_engine, verify_recorded_reference, verify_verdict
from registry.waivers import verify_waiver


@dataclass(frozen=True)
class Loss:
    """One thing that counts under one trust and not under another."""

    kind: str
    """`engine`, `verdict`, `waiver`, `reference`, `timing cache` or `channel`."""
    name: str
    """The start of its id, or the channel's name."""
    what: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the loss as a JSON object."""
        return {"kind": self.kind, "name": self.name, "what": self.what}


def losses(view: View, before: Trust, after: Trust) -> Iterator[Loss]:
    """Yields what the catalogue has that counts before and not after, channels last."""
    hit = set()
    for engine in view.engines():
        lost = list(_of_engine(view, engine, before, after))
        if any(one.kind != "waiver" for one in lost):
            hit.add(engine.digest)
        yield from lost
    for one in view.references():
        if _lost(partial(verify_recorded_reference, one), before, after):
            yield Loss("reference", one.digest.short, f"{one.model_name} by {one.runtime}")
    for cache in view.timing.caches():
        if _lost(partial(verify_cache, cache), before, after):
            yield Loss("timing cache", cache.digest.short, str(cache.key))
    for position in view.channels():
        if position.engine in hit:
            what = f"{position.model_name} on {position.target}: engine {position.engine.short}"
            yield Loss("channel", position.channel, what)


def _of_engine(view: View, engine: Engine, before: Trust, after: Trust) -> Iterator[Loss]:
    name = engine.digest.short
    if _lost(partial(verify_engine, engine), before, after):
        yield Loss("engine", name, engine.variant)
    for verdict in view.verdicts(engine.digest):
        if _lost(partial(verify_verdict, engine, verdict), before, after):
            what = f"{verdict.result} of engine {name} on {verdict.environment}"
            yield Loss("verdict", verdict.digest.short, what)
    for waiver in view.waivers(engine.digest):
        if _lost(partial(_require_in_force, engine, waiver), before, after):
            what = f"of engine {name}: {', '.join(waiver.rules)}"
            yield Loss("waiver", waiver.digest.short, what)


def _require_in_force(engine: Engine, waiver: Waiver, trust: Trust) -> None:
    """Raises IntegrityError for a waiver that does not count, whoever signed it."""
    verify_waiver(engine, waiver, trust)
    state = waiver.state(trust.clock(), trust.longest_waiver)
    if state != "in force":
        raise IntegrityError("the waiver is not in force", actual=state)


def _lost(check: Callable[[Trust], object], before: Trust, after: Trust) -> bool:
    return _counts(check, before) and not _counts(check, after)


def _counts(check: Callable[[Trust], object], trust: Trust) -> bool:
    try:
        check(trust)
    except IntegrityError:
        return False
    return True
