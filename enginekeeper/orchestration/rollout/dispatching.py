"""Asks a Prefect deployment of the rebuild flow for what a wave needs."""

from __future__ import annotations

from collections.abc import Sequence

from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import MissingError
from enginekeeper.orchestration.order import BuildOrder, RebuildOrder
from enginekeeper.orchestration.rebuilding import spec_of
from enginekeeper.orchestration.remote import submit_deployed
from enginekeeper.orchestration.rollout.work import Dispatch
from registry.waves.types import Wave, WaveWork


def dispatch_to(wave: Wave, *, again: bool = False) -> Dispatch | None:
    """Returns how a wave asks for its work; None where somebody does it by hand."""
    deployment = wave.deployment
    if deployment is None:
        return None

    def ask(one: WaveWork) -> str:
        name = "/".join((wave.name, *one.key, str(one.attempt)))
        return submit_deployed(deployment, order_for(one, wave.specs), once=name)

    return Dispatch(ask, again)


def order_for(work: WaveWork, specs: Sequence[str]) -> RebuildOrder:
    """Returns the order that does a piece of work; raises MissingError where no spec says how."""
    path = spec_of(specs, work.variant)
    if path is None:
        raise MissingError(
            "no spec of this wave says how a variant is judged", actual=work.variant,
            expected=f"one of {', '.join(specs) or 'none'} to name it",
            remedy="start the wave with --spec",
        )  # fmt: skip
    engines = () if work.action == Effect.REBUILD else (work.engine,)
    return RebuildOrder((BuildOrder(path, only=(work.variant,), engines=engines),))
