"""A verdict document as plain text for a terminal or a log: result first, then the numbers.

Works on the stored document alone, so that an old verdict reads as it did when it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_HEADINGS = ("check", "result", "value", "99 % from", "to", "limit", "prompts", "positions")


def render(document: Mapping[str, Any]) -> str:
    """Renders a verdict document; the first line is its summary."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield str(document["summary"])
    if document.get("simulated"):
        yield "SIMULATED: a double made this engine and a CPU ran it; it proves no GPU"
    if note := document.get("source_note"):
        yield f"Source model: {note}; so is every figure here."
    if document["faults"]:
        yield ""
        yield "What is wrong"
        for fault in document["faults"]:
            yield from _fault(fault)
    if repairs := document.get("repairs"):
        yield ""
        yield "What was repaired in the checkpoint before it was built"
        for repair in repairs:
            yield f"  {repair['field']}: {repair['reason']}"
            yield f"    was {repair['before']}, is {repair['after']} ({repair['name']})"
    yield ""
    yield from _table(_headings(document["policy"]), [_row(c) for c in document["checks"]])
    if origins := document.get("limits_from"):
        yield ""
        yield f"Limits: {_limits(document['policy'], origins)}"
    notes = [f"  {c['check']}: {c['note']}" for c in document["checks"] if c["note"]]
    if notes:
        yield ""
        yield from notes
    yield ""
    yield "Audits"
    for audit in document["audits"]:
        yield from _audit(audit)
    yield ""
    yield from _where(document)


def _limits(policy: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Says what each limit is, and where it came from."""
    said = (
        f"{name} {value:g} ({origins[name]})" for name, value in policy.items() if name in origins
    )
    return "; ".join(said)


def _headings(policy: Mapping[str, Any]) -> tuple[str, ...]:
    percent = f"{100 * policy['confidence']:g} % from"
    return tuple(percent if heading.endswith("from") else heading for heading in _HEADINGS)


def _fault(fault: Mapping[str, Any]) -> Iterator[str]:
    label = f" [{fault['class']}]" if fault["class"] else ""
    yield f"  {fault['where']}: {fault['message']}{label}"
    yield f"    found {fault['actual']}, expected {fault['expected']} ({fault['name']})"


def _audit(audit: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {audit['check']}: {audit['result']}"
    for finding in audit["findings"]:
        if finding["result"] != "fail":  # failures stand under "What is wrong"
            yield f"    {finding['result']}: {finding['where']}: {finding['message']}"


def _row(check: Mapping[str, Any]) -> tuple[str, ...]:
    limit = "" if check["limit"] is None else f"{check['sense']} {check['limit']:.4g}"
    return (
        check["check"],
        check["result"],
        _number(check["value"]),
        _number(check["lower"]),
        _number(check["upper"]),
        limit,
        str(check["prompts"]),
        str(check["positions"]),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    for row in (headings, tuple("-" * width for width in widths), *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _where(document: Mapping[str, Any]) -> Iterator[str]:
    for name in ("fidelity", "quality"):
        line = document[name]
        if "strata" not in line:
            continue
        strata = ", ".join(f"{stratum} {kl:.2g}" for stratum, kl in line["strata"].items())
        window = line["worst_window"]
        yield f"{name} KL by kind of text: {strata}"
        yield (
            f"{name} worst window: {window['prompt']}, positions {window['start']} to"
            f" {window['stop'] - 1}: {window['kl']:.2g} nats per position"
        )
    evidence = document["evidence"]
    yield (
        f"evidence: {evidence['prompts']} prompts, {evidence['positions']} positions,"
        f" tokens {evidence['tokens']}"
    )
    run = document.get("sequential")  # older verdicts have none
    if run is not None and run["stopped"] is not None:
        yield (
            f"scoring ended with a {run['stopped']['result']} after {run['positions']} of"
            f" {run['positions_of_suite']} positions, by {', '.join(run['stopped']['by'])}"
        )
    if evidence.get("reference") is not None:  # older verdicts name none
        yield f"reference: {evidence['reference']}"
    yield f"bounds: {document['method']}"
