"""`snapshot`: the signed state of the registry, so that nobody sets it back unnoticed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Hours, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.snapshots import Snapshot


@click.group()
def snapshot() -> None:
    """Publish, show and verify the registry's signed snapshot.

    Off until `ek trust snapshots required`; then the gate opens only under a fresh one, which a
    keeper's key signs (`ek key create keeper`). What runs already is only reported.
    """


@snapshot.command()
@click.option(
    "--expires-in", "hours", type=Hours(0.01), default=168.0, show_default=True,
    metavar="HOURS", help="How long it is fresh: publish again well before.",
)  # fmt: skip
@click.option(
    "--accept-loss", is_flag=True,
    help="Publish though the last snapshot is lost and nobody here knows what it revoked.",
)  # fmt: skip
@json_option
def publish(hours: float, accept_loss: bool, as_json: bool) -> int:
    """Sign the state of the catalogue and of the trust file as the next version.

    What an earlier one revoked, engine or key, stays revoked, whatever catalogue and store say.
    Exits 11 where that is known neither here nor in the store. Of a catalogue that was restored and
    not scrubbed since it vouches for no waiver: it may have ended.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.trust import Purpose

    bench = open_bench()
    signers = bench.signers(Purpose.SNAPSHOT)
    registry = bench.registry
    with registry.catalogue.read() as view:
        is_restored = bool(view.unchecked())
    made = bench.snapshots.publish(
        registry.store, bench.trust, registry.state, timedelta(hours=hours), signers,
        accept_loss=accept_loss,
    )  # fmt: skip
    output = Output(as_json)
    output.document(made.as_dict(), _text(made))
    output.note(f"snapshot {made.version} is in the store")
    if is_restored:
        output.note(
            "the catalogue was restored, so no waiver counts under it; next: enginekeeper store "
            "scrub, then enginekeeper snapshot publish once more"
        )
    return ExitCode.OK


@snapshot.command()
@json_option
def show(as_json: bool) -> int:
    """Show the snapshot in the store, verified, expired or not."""
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    found = bench.snapshots.snapshot(bench.registry.store, bench.trust)
    Output(as_json).document(found.as_dict(), _text(found))
    return ExitCode.OK


@snapshot.command()
@json_option
def verify(as_json: bool) -> int:
    """Check signature, version and expiry, and hold the catalogue against the snapshot.

    Exits 11 when the snapshot does not count or the catalogue lacks a revocation that was signed,
    7 when they merely differ: publish again, if the catalogue is right.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.freshness import differences, is_set_back, with_swept

    bench = open_bench()
    registry = bench.registry
    fresh = bench.snapshots.freshness(registry.store, bench.trust)
    signed = None if fresh.snapshot is None else fresh.snapshot.state
    found = registry.state_under(fresh.trusting(bench.trust))
    if signed is not None:
        with registry.catalogue.read() as view:
            found = with_swept(found, signed, view)
    rows = [] if signed is None else differences(signed, found)
    set_back = signed is not None and is_set_back(signed, found)
    document: dict[str, Any] = {
        "snapshot": None if fresh.snapshot is None else fresh.snapshot.as_dict(),
        "fault": fresh.fault,
        "set_back": set_back,
        "differences": rows,
    }
    output = Output(as_json)
    if as_json:
        output.json(document)
    else:
        output.table(rows, ("what", "signed", "found"))
    if fresh.fault is not None:
        output.note(fresh.fault)
        return ExitCode.INTEGRITY
    output.note("the catalogue lacks what was signed" if set_back else "the snapshot is fresh")
    if set_back:
        return ExitCode.INTEGRITY
    return ExitCode.DRIFT if rows else ExitCode.OK


@snapshot.command("forget-time")
@click.option("--dry-run", is_flag=True, help="Only show the time that would be forgotten.")
@json_option
def forget_time(dry_run: bool, as_json: bool) -> int:
    """Forget the latest time that was seen here: the clock was ahead then, and is right now.

    A clock behind that time opens no gate. What snapshots revoked stays remembered.
    """
    from enginekeeper.orchestration.bench import open_bench

    memory = open_bench().snapshots.memory
    seen = memory.time()
    if not dry_run:
        memory.forget_time()
    found = None if seen is None else seen.isoformat()
    said = "would be forgotten; nothing was changed" if dry_run else "is forgotten"
    Output(as_json).outcome(
        {"time": found, "dry_run": dry_run},
        "no time was seen here" if found is None else f"{found} {said}",
    )
    return ExitCode.OK


def _text(found: Snapshot) -> str:
    state = found.state
    lines = [
        f"version   {found.version}",
        f"issued    {found.issued_at.isoformat()}",
        f"expires   {found.expires_at.isoformat()}",
        *(
            f"channel   {one.channel} of {one.model} on {one.target}: {one.engine.short}"
            for one in sorted(state.channels)
        ),
        *(f"revoked   engine {one.short}" for one in sorted(state.revoked_engines)),
        *(f"revoked   key {one.keyid[:12]}: {one.reason}" for one in state.key_revocations),
        *(f"waiver    {one.short}" for one in sorted(state.waivers)),
    ]
    return "\n".join(lines)
