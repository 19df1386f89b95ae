"""What behaviour alone says of an engine: the verdict's own divergence check, prompt after prompt.

After the last one every part of the suite and the worst position are asked, too, the gain of
one tensor is looked for, where the recipe has a fault dictionary, and every layer is held against
its checkpoint's, where it was asked.

The engine is held against the recipe twin of the healthy export, as if the fault had come into it
afterwards, in a loader or a builder. Only fidelity decides: what a recipe costs is no fault. Decode
is not compared here. Where the rule stops is found by asking it again for every prompt, so that it
does not matter how many were scored at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from enginekeeper.validation.checks import Check, Rule, gravity
from enginekeeper.validation.dictionary import Dictionary
from enginekeeper.validation.divergence import compare
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.fidelity import divergence_so_far, fidelity_limit, local_checks
from enginekeeper.validation.gains import gain_check
from enginekeeper.validation.layers import LayerScores, layers_check
from enginekeeper.validation.pieces import NO_PIECES, Pieces
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.rounds import Rounds, order_of
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.stopping import rule_at_the_end, rule_on_the_way
from enginekeeper.validation.tokens import TokenizedSuite

Decision = Literal["fail", "pass", "inconclusive", "open"]
"""`open`: nothing was decided yet, and there are prompts left."""


@dataclass(frozen=True)
class Arms:
    """What does not change from engine to engine of a recipe, over the whole suite."""

    tokens: TokenizedSuite
    source: Scores
    twin: Scores
    nudged: Scores | None
    policy: AcceptancePolicy
    rounds: Rounds
    dictionary: Dictionary | None = None
    """Without one a gain is not looked for."""
    pieces: Pieces = NO_PIECES
    """Without texts no class of tokens is asked."""

    def evidence(self, engine: Scores, order: Sequence[int]) -> Evidence:
        """Puts an engine's scores of some prompts beside the other arms."""
        return Evidence(
            self.tokens,
            engine,
            source=self.source,
            twin=self.twin,
            nudged=self.nudged,
            dictionary=self.dictionary,
            pieces=self.pieces,
            scored=tuple(order),
        )


@dataclass(frozen=True)
class Told:
    """What the rule said, after how much."""

    decision: Decision
    by: str
    """The check that decided."""
    prompts: int
    tokens: int
    kl: float | None
    """Mean KL(twin ‖ engine) over all that was scored, whatever was decided on."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def told(
    arms: Arms,
    engine: Scores,
    *,
    order: Sequence[int] | None = None,
    layers: LayerScores | None = None,
) -> Told:
    """Replays the decisions over an engine's scored prompts, in the order they were scored in.

    Args:
        arms: What the engine is compared with.
        engine: Scores of the first prompts of `order`.
        order: Prompts by their numbers; those of the rounds if not given.
        layers: What its layers answered, where it was asked (`--probes`) after all prompts.
    """
    order = order_of(arms.rounds) if order is None else tuple(order)
    kl = _mean_kl(arms, engine, order[: engine.prompts])
    for scored in range(1, engine.prompts + 1):
        part = engine.only(range(scored))
        if not part.finite.all():
            return Told("fail", "fidelity.finite", scored, part.positions, kl)
        check = _check(arms, part, order[:scored])
        ended = scored == len(order)
        if ended and check.outcome != "fail":
            check = _graver_of(check, *_at_the_end(arms, part, order, layers))
        if check.outcome == "fail" or ended:
            decision = check.outcome if check.outcome in ("pass", "fail") else "inconclusive"
            return Told(decision, check.name, scored, part.positions, kl)
    return Told("open", "", engine.prompts, engine.positions, kl)


def _check(arms: Arms, engine: Scores, order: tuple[int, ...]) -> Check:
    """Asks the check by the bounds that hold on the way, or by those for a whole suite."""
    whole = engine.prompts == len(order_of(arms.rounds))
    rule = rule_at_the_end(arms.rounds) if whole else rule_on_the_way(arms.rounds, len(order))
    return divergence_so_far(replace(arms.evidence(engine, order), rule=rule), arms.policy)


def _at_the_end(
    arms: Arms, engine: Scores, order: Sequence[int], layers: LayerScores | None
) -> Iterator[Check]:
    """Asks what only a whole suite is asked: its parts, the gain of one tensor, every layer."""
    evidence = replace(
        arms.evidence(engine, order), rule=rule_at_the_end(arms.rounds), layers=layers
    )
    limit = fidelity_limit(evidence, arms.policy)
    yield from local_checks(evidence, arms.policy)
    yield gain_check(evidence, limit)
    if layers is not None:
        yield layers_check(layers, replace(limit, rule=Rule(fail_share=limit.rule.fail_share)))


def _graver_of(check: Check, *others: Check) -> Check:
    """Returns the check that says the worst; the first of several."""
    return max((check, *others), key=gravity)


def _mean_kl(arms: Arms, engine: Scores, order: tuple[int, ...]) -> float | None:
    comparison = compare(arms.twin.only(order), engine, arms.tokens.only(order), at="twin")
    return round(comparison.mean(comparison.kl), 9) if comparison.positions else None
