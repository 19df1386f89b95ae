"""What a verdict is made from, and what every line of it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from enginekeeper.validation.checks import WHOLE, Check, Rule
from enginekeeper.validation.dictionary import Culprit, Dictionary
from enginekeeper.validation.endings import BothEndings
from enginekeeper.validation.findings import AuditReport, Finding, Result, worst
from enginekeeper.validation.layers import LayerScores
from enginekeeper.validation.pieces import NO_PIECES, Pieces
from enginekeeper.validation.probes import Counted, ProbeScores
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from registry.digests import Digest

GREEDY_PREFIX = 32
"""How many of a prompt's tokens the greedy continuations start from."""


@dataclass(frozen=True)
class Stop:
    """The decision that ended scoring before the suite did."""

    result: Result
    by: tuple[str, ...]
    """The checks that decided."""
    prompts: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {"result": self.result, "by": list(self.by), "prompts": self.prompts}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Stop:
        """Reads what `as_dict` wrote."""
        return cls(document["result"], tuple(document["by"]), document["prompts"])


@dataclass(frozen=True)
class Evidence:
    """The arms that were scored and the audits that were run; what is None is missing.

    A missing twin, reference or audit can only make a verdict less certain, never better.
    """

    tokens: TokenizedSuite
    engine: Scores
    """Scored at `source` and at `twin`."""
    source: Scores | None = None
    """The unquantized model under vLLM: the reference."""
    reference: Digest | None = None
    """The reference's id, by which it is found in the registry."""
    twin: Scores | None = None
    """The recipe twin, scored at `source`."""
    checkpoint_twin: Scores | None = None
    """The checkpoint, dequantized, scored at `twin`: says which side of it a fault is on."""
    no_checkpoint_twin: str | None = None
    """Why there is none, in words."""
    nudged: Scores | None = None
    """The recipe twin with float32-sized noise added, scored at `twin`: measures the floor."""
    second_source: Scores | None = None
    """The unquantized model in another runtime, scored at `source`: checks the reference."""
    validation_twin: Scores | None = None
    """The engine built again with context logits, scored at `twin`: supports, decides nothing."""
    audits: tuple[AuditReport, ...] = ()
    greedy_prefix: int = GREEDY_PREFIX
    pieces: Pieces = NO_PIECES
    """The texts of the source model's tokens, for whoever reads the verdict."""
    rule: Rule = WHOLE
    """Which bounds hold for these prompts, and at which levels."""
    scored: tuple[int, ...] | None = None
    """The prompts that the engine scored, in its order; None: all, in the order of the tokens.

    The other arms are of the whole suite in any case.
    """
    probes: ProbeScores | None = None
    """What the engine said when it was asked in other ways."""
    texts: Mapping[str, Counted | str] | None = None
    """What became of the probes of what is shipped beside it; None where nobody asked."""
    layers: LayerScores | None = None
    """What each of its layers answered to what its checkpoint's own layer was given."""
    linears: LayerScores | None = None
    """The same of each of its linears."""
    endings: BothEndings | str | None = None
    """Where it and its twin end what they say; words where nothing says what an end is."""
    dictionary: Dictionary | None = None
    """How the twin moves with the gain of each tensor, where somebody asked for it."""
    culprits: tuple[Culprit, ...] = ()
    """The gains that explain the engine's distance from its twin, where they were looked for."""
    stopped: Stop | None = None
    """Why scoring ended before the suite did."""

    @cached_property
    def seen(self) -> Evidence:
        """The same evidence of those prompts only that the engine scored."""
        if self.scored is None:
            return self
        chosen = self.scored

        def cut(arm: Scores | None) -> Scores | None:
            return None if arm is None else arm.only(chosen)

        return replace(
            self,
            tokens=self.tokens.only(chosen),
            source=cut(self.source),
            twin=cut(self.twin),
            checkpoint_twin=cut(self.checkpoint_twin),
            nudged=cut(self.nudged),
            second_source=cut(self.second_source),
            validation_twin=cut(self.validation_twin),
            scored=None,
        )


@dataclass(frozen=True)
class Line:
    """One question a verdict answers: its result, its checks, and what else is worth seeing."""

    name: str
    result: Result
    statement: str
    """The answer as one clause, ready to stand in a summary."""
    checks: tuple[Check, ...]
    details: Mapping[str, Any]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What its checks found wrong."""
        return tuple(check.finding for check in self.checks if check.finding is not None)

    def as_dict(self) -> dict[str, Any]:
        """Returns the line without its checks' numbers, which stand in the verdict's list."""
        return {
            "result": self.result,
            "statement": self.statement,
            "checks": [check.name for check in self.checks],
            **self.details,
        }


def line_result(checks: tuple[Check, ...]) -> Result:
    """Combines checks that decide; those not run or only shown do not count."""
    return worst(
        check.outcome for check in checks if check.outcome in ("pass", "fail", "inconclusive")
    )
