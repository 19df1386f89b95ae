"""`trust`: how many must sign for what, whether snapshots are asked for, how long a waiver is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from enginekeeper.orchestration.bench import Bench
    from registry.trust import Trust

_PURPOSES = ("build", "verdict", "reference", "waiver", "snapshot", "revocation")
_dry_run = click.option("--dry-run", is_flag=True, help="Only show what would not count any more.")


@click.group()
def trust() -> None:
    """Show and change this home's policy of trust; its keys are changed by `ek key`.

    The policy is this machine's trust file: change it on every machine, or ship the file.
    """


@trust.command()
@json_option
def show(as_json: bool) -> int:
    """Show how many must sign for what and how many keys may; snapshots, length of waivers."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import TRUST_FILE
    from registry.trust_file import read_trust, trust_as_dict

    policy = read_trust(open_bench().keys / TRUST_FILE)
    rows = _rows(policy)
    output, document = Output(as_json), trust_as_dict(policy)
    if as_json:
        output.json(
            {"snapshot": document["snapshot"], "max_waiver_days": policy.max_waiver_days,
             "purposes": rows}
        )  # fmt: skip
        return ExitCode.OK
    output.table(rows, ("purpose", "root", "threshold", "keys"))
    output.note(f"snapshots: {document['snapshot']}")
    output.note(f"waivers: {policy.max_waiver_days} days at most")
    output.note(f"revoked keys: {len(policy.revocations)}")
    return ExitCode.OK


@trust.command()
@click.argument("purpose", type=click.Choice(_PURPOSES))
@click.argument("many", metavar="N", type=click.IntRange(min=1))
@_dry_run
@json_option
def threshold(purpose: str, many: int, dry_run: bool, as_json: bool) -> int:
    """Let statements of PURPOSE count only if N different keys signed them.

    What fewer have signed stops counting at once, and is listed.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.trust import Purpose

    return _changed(
        open_bench(), lambda now: now.requiring(Purpose(purpose), many),
        {"purpose": purpose, "threshold": many}, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


@trust.command()
@click.argument("policy", type=click.Choice(("required", "off")))
@_dry_run
@json_option
def snapshots(policy: str, dry_run: bool, as_json: bool) -> int:
    """Open the gate only under a fresh signed snapshot (required), or without one (off)."""
    from dataclasses import replace

    from enginekeeper.orchestration.bench import open_bench

    bench, required = open_bench(), policy == "required"
    code = _changed(
        bench, lambda now: replace(now, snapshot_required=required),
        {"snapshot": policy}, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip
    if required:
        fault = bench.snapshots.freshness(bench.registry.store, bench.trust).fault
        if fault is not None:
            note = f"nothing new is deployed then, until: enginekeeper snapshot publish\n{fault}"
            Output(as_json).note(note)
    return code


@trust.command()
@click.argument("days", type=click.IntRange(1, 3650))
@_dry_run
@json_option
def waivers(days: int, dry_run: bool, as_json: bool) -> int:
    """Let waivers count for DAYS days at most; longer ones are refused, or end that early."""
    from dataclasses import replace

    from enginekeeper.orchestration.bench import open_bench

    return _changed(
        open_bench(), lambda now: replace(now, max_waiver_days=days),
        {"max_waiver_days": days}, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


def _changed(
    bench: Bench, change: Callable[[Trust], Trust], said: dict[str, Any], *, dry_run: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Changes the trust file, unless only what it would mean is asked for; shows what that is."""
    from registry.signing import TRUST_FILE
    from registry.trust_file import change_trust, read_trust

    path = bench.keys / TRUST_FILE
    after = change(read_trust(path))
    lost = [one.as_dict() for one in bench.registry.losses(after)]
    if not dry_run:
        change_trust(path, change)
    output = Output(as_json)
    if as_json:
        output.json({**said, "dry_run": dry_run, "losses": lost})
    else:
        output.table(lost, ("kind", "name", "what"))
    counts = "would not count any more" if dry_run else "do not count any more"
    output.note(f"{', '.join(map(str, said.values()))}: {len(lost)} things {counts}")
    for row in _rows(after):
        if row["keys"] < row["threshold"] and row["root"] == "production":
            output.note(
                f"{row['purpose']}: {row['threshold']} must sign, and {row['keys']} keys may: "
                "enginekeeper key trust"
            )
    return ExitCode.OK


def _rows(policy: Trust) -> list[dict[str, Any]]:
    from registry.trust import Purpose, TrustRoot

    return [
        {"purpose": str(purpose), "root": str(root), "threshold": policy.threshold(purpose),
         "keys": policy.signers_now(purpose, root)}
        for root in TrustRoot
        for purpose in Purpose
    ]  # fmt: skip
