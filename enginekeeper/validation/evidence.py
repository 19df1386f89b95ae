"""What a verdict is made from, and what every line of it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginekeeper.validation.checks import Check
from enginekeeper.validation.findings import AuditReport, Finding, Result, worst
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from registry.digests import Digest

GREEDY_PREFIX = 32
"""How many of a prompt's tokens the greedy continuations start from."""


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
    nudged: Scores | None = None
    """The recipe twin with float32-sized noise added, scored at `twin`: measures the floor."""
    second_source: Scores | None = None
    """The unquantized model in another runtime, scored at `source`: checks the reference."""
    audits: tuple[AuditReport, ...] = ()
    greedy_prefix: int = GREEDY_PREFIX


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
