"""`engine quarantine`, `release` and `revoke`: taking an engine out of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._confirm import destroys, require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from enginekeeper.orchestration.bench import Bench
    from registry.lifecycle import BlastRadius
    from registry.standing import StandingChange
    from registry.types import Engine

engine_argument = click.argument("engine_id", metavar="ENGINE")
reason_option = click.option(
    "--reason", required=True, help="Why, for whoever looks at this later."
)


@click.command()
@engine_argument
@reason_option
@destroys
@json_option
def quarantine(engine_id: str, reason: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Close the gate on ENGINE until it is released; needs no key.

    Shows first whom it touches. Channels and nodes stay as they are.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.lifecycle import quarantine as hold

    bench, output = open_bench(), Output(as_json)
    found = bench.registry.engine(engine_id)
    if _only_looked(bench, found, output, dry_run=dry_run):
        return ExitCode.OK
    require_yes(f"Quarantine engine {found.digest.short}?", yes=yes)
    signers = _signers(bench, found)
    _told(hold(bench.registry, found, reason, *signers), output)
    return ExitCode.OK


@click.command()
@engine_argument
@reason_option
@json_option
def release(engine_id: str, reason: str, as_json: bool) -> int:
    """End the quarantine of ENGINE; the gate goes by its verdicts again."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.lifecycle import release as let_go

    bench, output = open_bench(), Output(as_json)
    found = bench.registry.engine(engine_id)
    signers = _signers(bench, found)
    _told(let_go(bench.registry, found, reason, *signers), output)
    if not signers:
        output.note("no revoker signed it: after `ek db restore` from before now, release it again")
    return ExitCode.OK


@click.command()
@engine_argument
@reason_option
@destroys
@json_option
def revoke(engine_id: str, reason: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Sign that ENGINE must not run any more; final, and signed by this home's revoker.

    Shows first whom it touches. Channels and nodes stay as they are: roll channels back.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.lifecycle import revoke as withdraw
    from registry.trust import Purpose

    bench, output = open_bench(), Output(as_json)
    found = bench.registry.engine(engine_id)
    if _only_looked(bench, found, output, dry_run=dry_run):
        return ExitCode.OK
    require_yes(f"Revoke engine {found.digest.short} for good?", yes=yes)
    signers = bench.signers(Purpose.REVOCATION, simulated=found.simulated)
    _told(withdraw(bench.registry, found, reason, *signers), output)
    if bench.trust.snapshot_required:
        output.note("machines that ask for snapshots learn of it by: enginekeeper snapshot publish")
    return ExitCode.OK


def _signers(bench: Bench, engine: Engine) -> tuple[Signer, ...]:
    """Returns this home's revoker, who signs where there is one; nobody where there is none."""
    from registry.errors import IntegrityError, RecordNotFoundError, StoreUnavailableError
    from registry.trust import Purpose

    try:
        return bench.signers(Purpose.REVOCATION, simulated=engine.simulated)
    except (IntegrityError, RecordNotFoundError, StoreUnavailableError):
        return ()


def _only_looked(bench: Bench, engine: Engine, output: Output, *, dry_run: bool) -> bool:
    """Shows whom it touches: as data if that is all, else beside it; says whether it is all."""
    from registry.fleet.types import WhereFilter
    from registry.lifecycle import blast_radius

    radius = blast_radius(bench.registry, engine)
    with bench.registry.catalogue.read() as view:
        reported = view.fleet.where(WhereFilter(engines=(str(engine.digest),)))
    lies = [f"{one.node}: {one.path}" for one in radius.placements]
    lies += [f"{one.node}: {one.path}" for one in reported]
    lies += _lying_here(bench, engine, output)
    document = _as_document(radius, sorted(set(lies)))
    text = _text(document)
    if dry_run:
        output.document(document, text)
        output.note("nothing was changed")
    else:
        output.note(text)
    return dry_run


def _lying_here(bench: Bench, engine: Engine, output: Output) -> list[str]:
    """Returns where an engine lies on this node; where nobody can tell, that is said.

    It is no reason not to close the gate: what is damaged here runs elsewhere.
    """
    from enginekeeper.errors import InputError
    from enginekeeper.fleet.placements import placements

    try:
        found = [one.path for one in placements(bench.settings.home) if one.engine == engine.digest]
    except InputError as error:
        output.note(f"nobody can tell where it lies on this node: {error.where}: {error.what}")
        return []
    return [f"{bench.node}: {one}" for one in found]


def _as_document(radius: BlastRadius, lies: list[str]) -> dict[str, Any]:
    return {
        "engine": str(radius.engine.digest),
        "variant": radius.engine.variant,
        "held": None if radius.held is None else str(radius.held),
        "channels": [one.as_dict() for one in radius.channels],
        "rollbacks": [one.as_dict() for one in radius.rollbacks],
        "placements": lies,
        "same_checkpoint": [
            {"engine": str(one.digest), "variant": one.variant} for one in radius.siblings
        ],
    }


def _text(document: dict[str, Any]) -> str:
    def short(digest: str) -> str:
        return digest.partition(":")[2][:12]

    def place(one: dict[str, Any]) -> str:
        return f"{one['channel']} of {one['model_name']} on {one['target']}"

    lines = [f"engine {short(document['engine'])}  {document['variant']}"]
    if document["held"] is not None:
        lines.append(f"  already:    {document['held']}")
    lines += [
        f"  serves:     {place(one)}; back: enginekeeper channel rollback {one['channel']} "
        f"--model {one['model_name']} --target {one['target']}"
        for one in document["channels"]
    ]
    lines += [f"  rollback:   {place(one)} could go back to it" for one in document["rollbacks"]]
    lines += [f"  lies on:    {one}" for one in document["placements"]]
    lines += [
        f"  same parts: {short(one['engine'])}  {one['variant']}, of the same checkpoint"
        for one in document["same_checkpoint"]
    ]
    if len(lines) == 1:
        lines.append("  no channel names it, and it is known to lie nowhere")
    return "\n".join(lines)


def _told(change: StandingChange, output: Output) -> None:
    document = {key: value for key, value in change.as_dict().items() if key != "envelope"}
    output.outcome(document, f"engine {change.engine.short}: {change}")
