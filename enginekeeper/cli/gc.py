"""`gc`: removes engines, checkpoints, timing caches and blobs that nothing reaches any more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._confirm import destroys, require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Hours, json_option
from enginekeeper.cli._output import Output, render_table

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from registry.digests import Digest
    from registry.sweeping import SweepPlan, SweepReport


@click.command()
@click.option(
    "--keep", multiple=True, metavar="ID", help="An engine or checkpoint to keep, too; repeatable."
)
@click.option(
    "--grace", "hours", type=Hours(1), default=168.0, show_default=True,
    metavar="HOURS", help="Nothing younger is removed: a publish may be under way.",
)  # fmt: skip
@click.option(
    "--rollbacks", type=click.IntRange(min=0), default=3, show_default=True,
    help="How far each channel can still be rolled back.",
)  # fmt: skip
@click.option(
    "--per-key", type=click.IntRange(min=0), default=1, show_default=True,
    help="Engines kept of each key: the newest, and the newest qualified per environment.",
)  # fmt: skip
@click.option(
    "--orphans", is_flag=True,
    help="Remove documents too that no row of this catalogue names. Only if this is the "
    "only catalogue of the store.",
)  # fmt: skip
@destroys
@json_option
def gc(
    keep: tuple[str, ...], hours: float, rollbacks: int, per_key: int, orphans: bool,
    dry_run: bool, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Remove what nothing reaches: no channel, no rollback, no node, no key's newest engine.

    Of timing caches the latest of each key stays.

    Shows what would go, with bytes, and asks. References and revocations are never removed.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.retention import RetentionPolicy
    from registry.sweeping import plan_sweep, sweep

    policy = RetentionPolicy(timedelta(hours=hours), rollbacks, per_key)
    bench, output = open_bench(), Output(as_json)
    plan = plan_sweep(bench.registry, policy, keep=_kept(bench, keep), orphans=orphans)
    if dry_run:
        output.document(_document(plan, None), _text(plan))
        output.note("nothing was changed")
        return ExitCode.OK
    if not (plan.condemned or plan.orphans or plan.blobs):
        output.outcome(_document(plan, None), _text(plan))
        return ExitCode.OK
    output.note(_text(plan))
    require_yes("Remove this?", yes=yes)
    report = sweep(bench.registry, plan)
    output.outcome(_document(plan, report), _done(report))
    return ExitCode.OK


def _kept(bench: Bench, named: tuple[str, ...]) -> set[Digest]:
    """Returns what was named, and what lies on this node by its own records."""
    from enginekeeper.fleet.placements import placements
    from registry.errors import RecordNotFoundError

    kept = {one.engine for one in placements(bench.settings.home)}
    for one in named:
        try:
            kept.add(bench.registry.engine(one).digest)
        except RecordNotFoundError:
            kept.add(bench.registry.checkpoint(one).digest)
    return kept


def _document(plan: SweepPlan, report: SweepReport | None) -> dict[str, Any]:
    marked = [
        {
            "kind": str(one.kind),
            "id": str(one.holding.digest),
            "path": one.holding.path,
            "bytes": one.holding.size,
            "recorded_at": one.holding.recorded_at.isoformat(),
            "kept_for": list(one.reasons),
        }
        for one in plan.marked
    ]
    return {
        "policy": plan.policy.as_dict(),
        "remove": [one for one in marked if not one["kept_for"]],
        "keep": [one for one in marked if one["kept_for"]],
        "orphans": [one.folder for one in plan.orphans],
        "unknown": [one.folder for one in plan.unknown],
        "blobs": len(plan.blobs),
        "bytes": plan.size,
        "removed": None if report is None else report.as_dict(),
    }


def _text(plan: SweepPlan) -> str:
    rows: list[dict[str, object]] = [
        {
            "remove": str(one.kind),
            "id": one.holding.digest.short,
            "recorded": one.holding.recorded_at.date(),
            "megabytes": f"{one.holding.size / 1e6:.1f}",
            "path": one.holding.path,
        }
        for one in plan.condemned
    ]
    rows += [
        {"remove": "orphan", "recorded": f"{one.age.days} days old", "path": one.folder}
        for one in plan.orphans
    ]
    text = render_table(rows, ("remove", "id", "recorded", "megabytes", "path")) if rows else ""
    kept = sum(1 for one in plan.marked if one.reasons)
    text += f"{len(plan.blobs)} blobs, {_megabytes(plan.size)} would be free; {kept} artifacts stay"
    if plan.unknown:
        text += (
            f"\n{len(plan.unknown)} folders belong to no row of this catalogue and stay: "
            "another catalogue, or a publish that was interrupted (--orphans)"
        )
    return text


def _done(report: SweepReport) -> str:
    return (
        f"removed {len(report.engines)} engines, {len(report.checkpoints)} checkpoints, "
        f"{len(report.timing_caches)} timing caches, "
        f"{report.documents} documents, {report.blobs} blobs: {_megabytes(report.size)} are free"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB ({size} bytes)"
