"""`drift`: what runs otherwise than it should, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Moment, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from enginekeeper.orchestration.drift_nodes import NodeDrift

_KINDS = (
    "driver", "cuda", "container", "engine", "build-flags", "missing", "revoked", "unqualified",
    "unknown", "bytes", "stale",
)  # fmt: skip


@click.group(invoke_without_command=True)
@click.option("--summary", is_flag=True, help="Count the fleet instead of naming nodes.")
@click.option("--node", "names", multiple=True, metavar="GLOB", help="Only nodes of this name.")
@click.option(
    "--class", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only drift of this class."
)
@click.option("--all", "everything", is_flag=True, help="Also nodes that are as they should be.")
@click.option("--fail-on-drift", is_flag=True, help="Exit 7 if anything is shown that counts.")
@click.option(
    "--stale-after", type=click.IntRange(min=1), default=180, show_default=True, metavar="SECONDS",
    help="A node that was not heard for so long is stale.",
)  # fmt: skip
@json_option
@click.pass_context
def drift(context: click.Context, /, **options: Any) -> int:  # noqa: ANN401 - what click parsed
    """Show where what runs is otherwise than what should, field by field.

    Sync is about engines, health about the node: two columns. What should be: the assignments
    (`ek assign`), and that every engine is qualified where it lies. `corrective` is what the node
    changed, `intentional` what somebody changed and the node has yet to follow. What a rule or a
    waiver excuses is shown with who wants it so, and fails nothing.

    Signatures are checked, but for --summary, which believes what the catalogue records.
    """
    if context.invoked_subcommand is not None:
        return ExitCode.OK
    from datetime import UTC, datetime, timedelta

    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.drift_nodes import node_drifts
    from enginekeeper.orchestration.drift_report import drift_of

    output, now = Output(options["as_json"]), datetime.now(UTC)
    stale_after = timedelta(seconds=options["stale_after"])
    if options["summary"] and (options["names"] or options["kinds"] or options["everything"]):
        raise click.UsageError("--summary counts the whole fleet; the others name nodes")
    registry = open_bench().registry
    found = drift_of(registry, now, verified=not options["summary"], stale_after=stale_after)
    if options["summary"]:
        summary = found.summary()
        output.document(summary, _counted(summary))
        return _code(options["fail_on_drift"], counts=found.has_drift)
    with registry.catalogue.read() as view:
        nodes = node_drifts(view, found, now, stale_after=stale_after, scope=registry.driver_scope)
    shown = _chosen(nodes, options["names"], options["kinds"], everything=options["everything"])
    if options["as_json"]:
        output.json([one.as_dict() for one in shown])
    else:
        output.table([row for one in shown for row in _rows(one, now)], _COLUMNS)
        _notes(output, shown, len(nodes))
    counts = any(one.finding.ignored is None for node in shown for one in node.findings)
    return _code(options["fail_on_drift"], counts=counts)


@drift.command()
@click.argument("kind", type=click.Choice([*_KINDS, "*"]), metavar="CLASS")
@click.argument("selector")
@click.option("--reason", required=True, help="Why, for whoever looks at this later.")
@click.option("--until", type=Moment(), metavar="TIME", help="When it ends; never if left out.")
@json_option
def ignore(kind: str, selector: str, reason: str, until: datetime | None, as_json: bool) -> int:
    """Want drift of CLASS on the nodes that SELECTOR picks: it is shown, and fails nothing.

    It opens no gate: an engine that may not start there still may not (`ek waiver` is for that).
    CLASS `*` is every class but what is critical, which must be named. Of labels only those count
    that an operator gave (`ek node enroll --label`, `ek node label`): no node excuses itself.
    """
    from datetime import UTC, datetime

    from enginekeeper.fleet.picking import NodeSelector
    from enginekeeper.orchestration.bench import open_bench
    from registry.fleet.types import DriftIgnore

    NodeSelector.parse(selector)
    now = datetime.now(UTC)
    if until is not None and until <= now:
        raise click.BadParameter(
            f"{until.isoformat()} is past: the rule would excuse nothing", param_hint="--until"
        )
    registry = open_bench().registry
    rule = DriftIgnore(kind, selector, reason, registry.actor, until, now)
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.fleet.ignore(rule)
    Output(as_json).outcome(rule.as_dict(), f"drift {kind} on {selector} is wanted: {reason}")
    return ExitCode.OK


@drift.command()
@click.argument("kind", type=click.Choice([*_KINDS, "*"]), metavar="CLASS")
@click.argument("selector")
@json_option
def heed(kind: str, selector: str, as_json: bool) -> int:
    """End a rule by which drift is ignored."""
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    with registry.catalogue.edit(actor=registry.actor) as draft:
        draft.fleet.heed(kind, selector)
    said = f"drift {kind} on {selector} counts again"
    Output(as_json).outcome({"kind": kind, "selector": selector}, said)
    return ExitCode.OK


@drift.command()
@json_option
def rules(as_json: bool) -> int:
    """List the rules by which drift is ignored, expired ones too."""
    from enginekeeper.orchestration.bench import open_bench

    with open_bench().registry.catalogue.read() as view:
        found = [one.as_dict() for one in view.fleet.ignores()]
    Output(as_json).table(found, ("kind", "selector", "reason", "actor", "expires_at"))
    return ExitCode.OK


_COLUMNS = ("node", "sync", "health", "class", "severity", "cause", "engine", "field", "desired",
            "actual", "since", "ignored")  # fmt: skip


def _code(fail: bool, *, counts: bool) -> ExitCode:
    return ExitCode.DRIFT if fail and counts else ExitCode.OK


def _chosen(
    nodes: Sequence[NodeDrift], names: Sequence[str], kinds: Sequence[str], *, everything: bool
) -> list[NodeDrift]:
    from dataclasses import replace

    from enginekeeper.specs.selectors import pick_names

    shown, named = [], pick_names([one.node for one in nodes], names)
    for one in nodes:
        if one.node not in named:
            continue
        found = tuple(each for each in one.findings if not kinds or each.finding.kind in kinds)
        well = one.diagnosis.health == "healthy"
        if everything or found or (not kinds and (not well or names)):
            shown.append(replace(one, findings=found))
    return shown


def _rows(one: NodeDrift, now: datetime) -> list[dict[str, Any]]:
    """Returns a row for each field that differs, one for a node where none does."""
    from enginekeeper.fleet.health import age

    mark = " SIMULATED" if one.simulated else ""
    head = {"node": f"{one.node}{mark}", "sync": one.sync, "health": str(one.diagnosis.health)}
    rows = [
        {
            **head,
            "class": str(each.finding.kind),
            "severity": str(each.finding.severity),
            "cause": each.cause,
            "engine": _short(each.finding.engine),
            "field": field.field,
            "desired": _short(field.desired),
            "actual": _short(field.actual),
            "since": None if each.since is None else age(each.since, now),
            "ignored": each.finding.ignored,
        }
        for each in one.findings
        for field in each.finding.fields
    ]
    return rows or [{**head, "field": "; ".join(one.diagnosis.reasons)}]


def _short(text: str | None) -> str | None:
    """Shows of a digest the digits that people see."""
    return text[7:19] if text is not None and text.startswith("sha256:") else text


def _notes(output: Output, shown: Sequence[NodeDrift], nodes: int) -> None:
    out = sum(one.sync == "out-of-sync" for one in shown)
    output.note(f"{nodes} nodes; {len(shown)} shown, {out} of them out of sync")
    if any(one.simulated for one in shown):
        output.note("SIMULATED: some of these nodes are no real ones")


def _counted(summary: dict[str, Any]) -> str:
    lines = [f"{summary['nodes']} nodes in {summary['states']} states"]
    for name in ("sync", "health", "drift", "ignored"):
        counts = ", ".join(f"{what} {count}" for what, count in summary[name].items())
        lines.append(f"  {name + ':':9}{counts or 'none'}")
    lines.append(f"  worst:   {summary['worst'] or 'none'}")
    lines.append("  signatures were not asked: `ek drift` without --summary does")
    return "\n".join(lines)
