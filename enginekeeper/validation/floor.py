"""How far a healthy engine may be from its recipe: the recipe's own floor.

A recipe that rounds activations, keys or values is chaotic: two executions that differ in the last
bit of a float32 round some activation differently, later layers round the difference again, and in
the end two healthy engines differ from each other about as much as each from the twin. The floor is
measured on the twin itself, executed a second time with a last bit of noise. Where a multiple of it
is above the policy's limit, that multiple is the limit, up to a ceiling: an engine may not be
further from its recipe than the recipe is from the source, or than the policy lets it be. A recipe
whose floor reaches above the ceiling cannot be told from a broken one by what it predicts, and the
line says so.

The engine and the noisy twin saw the same prompts, and a prompt that carries one of them far
carries the other far: the comparison is paired, so that only what differs between them is
uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from enginekeeper.validation.checks import Check, Quantity, shown
from enginekeeper.validation.divergence import Comparison, Doubles, compare
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite

FLOOR_FACTOR = 2.0
"""How far above its recipe's floor an engine must be to fail.

Between what must pass (1.5: kernels of another precision) and what must fail (2.5). A healthy FP8
engine of SmolLM2-135M was at 0.65 (KL 0.0132, floor 0.0201).
"""


@dataclass(frozen=True)
class Floor:
    """The twin against itself with a last bit of noise."""

    apart: Comparison
    cost: float = 0.0
    """The mean divergence of the twin from the source, where both are known: what is lost anyway.

    It belongs to the ceiling because the quality line, not this one, holds it against the policy: a
    recipe that costs more than is allowed is refused there, and its engine may still be honest.
    """

    @property
    def value(self) -> float:
        """The mean divergence that noise alone causes, in nats per position."""
        return self.apart.mean(self.apart.kl)

    @property
    def raised(self) -> float:
        """The limit that the floor alone would set, in nats per position."""
        return FLOOR_FACTOR * self.value

    def decides(self, policy: AcceptancePolicy) -> bool:
        """Says whether the floor, not the policy, sets the limit."""
        return self.raised > policy.max_fidelity_kl

    def hides(self, policy: AcceptancePolicy) -> bool:
        """Says whether a healthy engine of this recipe may be above the ceiling."""
        return self.raised > self._ceiling(policy)

    def allowed(self, policy: AcceptancePolicy) -> float:
        """Returns the limit of the engine's divergence from the twin."""
        return max(policy.max_fidelity_kl, min(self.raised, self._ceiling(policy)))

    def _ceiling(self, policy: AcceptancePolicy) -> float:
        return max(policy.max_fidelity_kl, policy.max_quality_kl, self.cost)

    def paired(self, sums: Doubles) -> Doubles:
        """Takes from each prompt's sum what the floor explains of it; the mean stays as it is."""
        noise = self.apart.per_prompt(self.apart.kl) - self.value * self.apart.sizes
        paired: Doubles = sums - FLOOR_FACTOR * noise
        return paired

    def check(self, confidence: float) -> Check:
        """Shows the floor with its bounds."""
        quantity = Quantity(
            "fidelity.floor",
            "mean KL(recipe twin ‖ recipe twin with a last bit of noise)",
            "nats per position",
            self.apart.per_prompt(self.apart.kl),
            self.apart.sizes,
            self.apart.tokens.strata,
            least=0.0,
        )
        return shown(quantity, confidence)


def measured_floor(evidence: Evidence) -> Floor | None:
    """Returns the floor; None where the twin was not scored a second time, in finite numbers."""
    if evidence.nudged is None or evidence.twin is None or evidence.nudged.not_finite:
        return None
    return _floor(evidence.tokens, evidence.twin, evidence.nudged, evidence.source)


@lru_cache(maxsize=2)  # of the suite and of the prompts scored so far: asked after every prompt
def _floor(tokens: TokenizedSuite, twin: Scores, nudged: Scores, source: Scores | None) -> Floor:
    apart = compare(twin, nudged, tokens, at="twin")
    if source is None or source.not_finite or twin.not_finite:
        return Floor(apart)
    recipe = compare(source, twin, tokens, at="source")
    return Floor(apart, recipe.mean(recipe.kl))
