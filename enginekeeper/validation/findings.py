"""What an audit says: findings, each naming a place and both values, and a three-valued report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Result = Literal["pass", "fail", "inconclusive"]

TAXONOMY: Mapping[str, str] = {
    "T1": "scale value wrong",
    "T2": "scale reciprocal, missing, not finite or zero",
    "T3": "scale granularity or layout",
    "T4": "zero-point convention",
    "T5": "element order, nibble order, act-order",
    "T6": "scale of a fused tensor's part",
    "T7": "power-of-two scale without requantization",
    "T8": "layer exclusion, tied tensors",
    "T9": "AWQ or SmoothQuant folding",
    "T10": "KV-cache scale",
    "T11": "KV-cache saturation or format",
    "T12": "FP8 variant",
    "T13": "activation scale",
    "T14": "tensor-parallel split, grouped heads",
    "T15": "positions: rope base, scaling, window",
    "T16": "long-context numerics",
    "T17": "chunked prefill",
    "T18": "batch size, graph padding",
    "T19": "KV-cache reuse and eviction",
    "T20": "overflow, NaN",
    "T21": "tokenizer, template, stop tokens",
    "T22": "LoRA",
    "T23": "logits plumbing",
    "T24": "the reference itself",
    "T25": "corruption of rows or of a shard",
    "T26": "structure: layers, biases, eps, activation",
}
"""The classes of silent faults; a finding names one of them."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that could not be decided; passes are not listed."""

    check: str
    """Which check found it, e.g. `config.rotary_base`, `weights.scale`."""
    result: Result
    where: str
    """The tensor, field or layer, as the checkpoint names it."""
    message: str
    """One sentence for a person, complete in itself."""
    actual: object = None
    expected: object = None
    taxonomy: str | None = None
    """A key of TAXONOMY, or None where no class fits."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding as JSON values; `class` is the taxonomy class."""
        return {
            "check": self.check,
            "result": self.result,
            "where": self.where,
            "message": self.message,
            "actual": _json(self.actual),
            "expected": _json(self.expected),
            "class": self.taxonomy,
        }


@dataclass(frozen=True)
class AuditReport:
    """The outcome of one audit: what it found, and what it looked at."""

    check: str
    """`config`, `weights` or `recipe`."""
    findings: tuple[Finding, ...]
    examined: Mapping[str, Any] = field(default_factory=dict)
    """Counts and limits: what a reader needs to know how much a pass says."""

    @property
    def result(self) -> Result:
        """`fail` if anything failed, else `inconclusive` if anything was, else `pass`."""
        return worst(finding.result for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "check": self.check,
            "result": self.result,
            "findings": [finding.as_dict() for finding in self.findings],
            "examined": {key: _json(value) for key, value in self.examined.items()},
        }


def faults(reports: Iterable[AuditReport], most: int = 5) -> tuple[str, ...]:
    """Returns a line for each failed finding: place, message and both values; the rest counted."""
    failed = [one for report in reports for one in report.findings if one.result == "fail"]
    lines = [
        f"audit: {one.where}: {one.message} (found {_json(one.actual)}, "
        f"expected {_json(one.expected)})"
        for one in failed[:most]
    ]
    return (*lines, *([f"audit: {len(failed) - most} more"] if len(failed) > most else []))


def not_run(check: str) -> dict[str, Any]:
    """Returns what stands in the place of an audit's report where there was none."""
    return {"check": check, "result": "not run", "findings": [], "examined": {}}


def worst(results: Iterable[Result]) -> Result:
    """Combines results: a failure outweighs doubt, doubt outweighs a pass."""
    seen = set(results)
    if "fail" in seen:
        return "fail"
    return "inconclusive" if "inconclusive" in seen else "pass"


def _json(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Returns a value json can write; what it cannot is shown as text, NaN included."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)  # noqa: PLR0124
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return str(value)
