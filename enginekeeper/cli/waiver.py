"""`waiver`: who lets an engine run in spite of a rule of the gate, why, and until when."""

from __future__ import annotations

import getpass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._confirm import require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Moment, NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from registry.digests import Digest
    from registry.environments import Environment
    from registry.types import Engine, Waiver
    from registry.waivers import WaiverDraft


@click.group()
def waiver() -> None:
    """Grant, list and revoke waivers; an approver's key signs them (`ek key create approver`)."""


@waiver.command()
@click.argument("engine_id", metavar="ENGINE")
@click.option(
    "--rule", "rules", multiple=True, required=True, metavar="RULE",
    help="Rule of the gate to pass over; may be given several times.",
)  # fmt: skip
@click.option("--reason", required=True, help="Why; shown wherever the engine is shown.")
@click.option("--until", type=Moment(), required=True, help="When it ends.")
@click.option(
    "--environment", type=NamedPath(),
    help="JSON file of the environment it counts in; this node's if left out.",
)  # fmt: skip
@click.option("--everywhere", is_flag=True, help="It counts in every environment.")
@click.option(
    "--verdict", "verdict_id", metavar="VERDICT",
    help="Of verdict-failed and -inconclusive: this one; left out, the one that decides there now.",
)  # fmt: skip
@click.option("--any-verdict", is_flag=True, help="Of these two: later verdicts as well.")
@click.option(
    "--to", "draft", type=click.Path(path_type=Path),
    help="Write the signed waiver to a file and record nothing: others are to sign it, too.",
)  # fmt: skip
@json_option
def grant(
    engine_id: str, rules: tuple[str, ...], reason: str, until: datetime, environment: Path | None,
    everywhere: bool, verdict_id: str | None, any_verdict: bool, draft: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Let ENGINE run in spite of RULE until a time.

    A waiver of what a verdict says is for that verdict alone: one that comes later closes the gate.
    How long it may be is in the trust file: 90 days unless `ek trust waivers` says otherwise.

    Rules that can be waived: stale-snapshot, incompatible, never-judged, not-qualified-here,
    verdict-failed, verdict-inconclusive. What is not signed, revoked or simulated never runs.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.attestations import sign
    from registry.trust import Purpose, utc_now
    from registry.waivers import ABOUT_VERDICT, WaiverGrant, require_short, waiver_statement

    if verdict_id is not None and any_verdict:
        raise click.UsageError("--verdict names one, --any-verdict none: give one of them")
    bench = open_bench()
    engine = bench.registry.engine(engine_id)
    where = None if everywhere else _where(bench, engine, environment)
    verdict = None
    if verdict_id is not None or (ABOUT_VERDICT.intersection(rules) and not any_verdict):
        verdict = _verdict(bench, engine, where, verdict_id)
    granted = WaiverGrant(
        tuple(sorted(set(rules))), where, reason, getpass.getuser(), utc_now(), until,
        engine.simulated, verdict,
    )  # fmt: skip
    require_short(granted, bench.trust)
    signers = bench.signers(Purpose.WAIVER, simulated=engine.simulated)
    envelope = sign(waiver_statement(engine.digest, granted), *signers)
    if draft is not None:
        return _handed_on(bench, draft, envelope, as_json)
    return _told(bench, bench.registry.grant_waiver(engine.digest, envelope), as_json)


@waiver.command()
@click.argument("draft", metavar="FILE", type=NamedPath())
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what it says; sign nothing.")
@json_option
def add(draft: Path, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Show the waiver in FILE, sign it, too, and record it as soon as enough approvers have.

    How many must sign is in the trust file (`thresholds`).
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.envelopes import countersign
    from registry.trust import Purpose
    from registry.waivers import read_draft

    bench, envelope = open_bench(), _read(draft)
    found = read_draft(envelope, bench.trust)
    engine = bench.registry.engine(found.engine)
    found.require_about(engine)
    if dry_run:
        Output(as_json).document(_said(found, draft), _lines(found, draft))
        return ExitCode.OK
    Output(as_json).note(_lines(found, draft))
    require_yes("Sign this waiver?", yes=yes)
    for signer in bench.signers(Purpose.WAIVER, simulated=engine.simulated):
        if signer.public_key.keyid not in found.signers:
            envelope = countersign(envelope, signer)
    if read_draft(envelope, bench.trust).missing:
        return _handed_on(bench, draft, envelope, as_json)
    return _told(bench, bench.registry.grant_waiver(engine.digest, envelope), as_json)


@waiver.command("list")
@click.option("--engine", "engine_id", help="Only waivers of this engine.")
@json_option
def list_command(engine_id: str | None, as_json: bool) -> int:
    """List waivers, newest first, those that have ended too."""
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    rows = [_row(bench, one) for one in bench.registry.waivers(engine_id)]
    columns = (
        "waiver", "engine_id", "rules", "verdict", "where", "granted_by", "expires_at", "state",
        "reason",
    )  # fmt: skip
    Output(as_json).table(rows, columns)
    return ExitCode.OK


@waiver.command()
@click.argument("waiver_id", metavar="WAIVER")
@click.option("--reason", required=True, help="Why.")
@click.option("--dry-run", is_flag=True, help="Only show which waiver it is.")
@json_option
def revoke(waiver_id: str, reason: str, dry_run: bool, as_json: bool) -> int:
    """End WAIVER before its time; an approver signs that, too."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.attestations import sign
    from registry.trust import Purpose, utc_now
    from registry.waivers import ending_statement

    bench = open_bench()
    found = bench.registry.waiver(waiver_id)
    if not dry_run:
        statement = ending_statement(found, reason=reason, ended_by=getpass.getuser(), at=utc_now())
        signers = bench.signers(Purpose.WAIVER, simulated=found.simulated)
        envelope = sign(statement, *signers)
        found = bench.registry.end_waiver(found.digest, envelope)
    return _told(bench, found, as_json)


def _where(bench: Bench, engine: Engine, path: Path | None) -> Environment:
    from enginekeeper.cli.gate import read_environment
    from enginekeeper.orchestration.nodes import ThisNode

    return ThisNode(bench).meets(engine.key) if path is None else read_environment(path)


def _verdict(bench: Bench, engine: Engine, where: Environment | None, named: str | None) -> Digest:
    """Returns the verdict that a waiver is for; raises MissingError where that is not told."""
    from enginekeeper.errors import MissingError

    found = None if where is None else bench.registry.verdict_there(engine, where)
    if named is not None:
        with bench.registry.catalogue.read() as view:
            found = view.verdict(named)
    if found is None or found.engine != engine.digest:
        there = "everywhere" if where is None else f"on {where}"
        raise MissingError(
            "there is no such verdict to waive",
            where=f"engine {engine.digest.short} {there}",
            actual=None if found is None else f"verdict {found.digest.short} is on another engine",
            remedy=f"name one with --verdict (enginekeeper engine show {engine.digest.short}), "
            "or waive whatever is said, with --any-verdict",
        )
    return found.digest


def _row(bench: Bench, one: Waiver) -> dict[str, Any]:
    from enginekeeper.cli._engine_text import waiver_row

    return waiver_row(bench.registry, bench.registry.engine(one.engine), one)


def _told(bench: Bench, one: Waiver, as_json: bool) -> int:
    row = _row(bench, one)
    of = "" if row["verdict"] is None else f" (verdict {row['verdict']})"
    text = f"waiver {row['waiver']} of engine {row['engine_id']}: {row['rules']}{of}, "
    text += f"{row['where']}, "
    text += f"by {one.granted_by} until {one.expires_at.isoformat()}: {one.reason}"
    output = Output(as_json)
    output.document(row, text)
    output.note(f"state: {row['state']}")
    if bench.trust.snapshot_required:
        output.note("machines that ask for snapshots see it after: enginekeeper snapshot publish")
    return ExitCode.OK


def _handed_on(bench: Bench, draft: Path, envelope: bytes, as_json: bool) -> int:
    from registry.waivers import read_draft

    found = read_draft(envelope, bench.trust)
    draft.write_bytes(envelope)
    output = Output(as_json)
    output.document(_said(found, draft), _lines(found, draft))
    output.note(
        f"not recorded, {found.missing} signatures are missing; others sign it, and record it, "
        f"with: enginekeeper waiver add {draft}"
    )
    return ExitCode.OK


def _said(found: WaiverDraft, draft: Path) -> dict[str, Any]:
    return {**found.grant.as_dict(), "engine": str(found.engine), "path": str(draft),
            "signers": list(found.signers), "missing": found.missing}  # fmt: skip


def _lines(found: WaiverDraft, draft: Path) -> str:
    return "\n".join(f"{name:<12}{value}" for name, value in _said(found, draft).items())


def _read(path: Path) -> bytes:
    from enginekeeper.errors import InputError

    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
