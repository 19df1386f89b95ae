"""Puts engines into the channel that a build was asked to fill."""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.environments import environment_of
from enginekeeper.orchestration.outcome import Failure, Outcome
from registry.digests import Digest
from registry.errors import DiagnosedError, GateClosedError, GateInconclusiveError


def into_channel(bench: Bench, channel: str | None, outcome: Outcome) -> Outcome:
    """Puts an outcome's engine into a channel, if one is asked for; never raises.

    The outcome returned says what happened, and carries the error if the channel refused. A
    variant that did not pass by its own policy is refused whatever the gate says: variants that
    differ in their policy alone share an engine, and another one may have passed.
    """
    if channel is None or outcome.engine is None:
        return outcome
    engine = Digest.parse(outcome.engine)
    try:
        _require_pass(outcome)
        environment = environment_of(bench, bench.registry.engine(engine).key)
        bench.registry.set_channel(channel, engine, environment, actor="build flow")
    except DiagnosedError as error:
        said = f"{channel}: refused: {error.what}"
        return replace(outcome, channel=said, refusal=Failure.of(error))
    return replace(outcome, channel=f"{channel}: set")


def _require_pass(outcome: Outcome) -> None:
    if outcome.result != "pass":
        doubt = outcome.result == "inconclusive"
        family, gate = (
            (GateInconclusiveError, "inconclusive") if doubt else (GateClosedError, "closed")
        )
        raise family(
            f"the gate is {gate}: the verdict by this variant's own policy is {outcome.result}",
            where=outcome.variant,
            actual=outcome.summary,
            expected="pass",
        )
