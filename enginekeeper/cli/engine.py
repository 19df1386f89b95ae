"""`engine`: what exists, what it is made of, why it passed or failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._differences import diff
from enginekeeper.cli._engine_filter import engine_filter
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._nearest import nearest
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._standing import engine_argument, quarantine, release, revoke
from enginekeeper.cli._verdicts import verified_document

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.types import Engine, EngineFilter, Verdict, Waiver


@click.group()
def engine() -> None:
    """List, show, verify, fetch, export and hold engines; ENGINE is an id or the start of one."""


engine.add_command(quarantine)
engine.add_command(release)
engine.add_command(revoke)


@engine.command("list")
@engine_filter
@json_option
def list_command(wanted: EngineFilter, as_json: bool) -> int:
    """List engines, newest first, with their latest verdict.

    Versions are compared as numbers: `12` is every 12.x, and `>=12.4,<13` what lies between. One
    whose record is not what was signed is listed as `unverified`.
    """
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    engines, held = registry.engines(wanted), registry.held_engines()
    latest, waivers = registry.latest_verdicts(engines), registry.waivers_in_force(engines)
    rows = [
        {**_row(registry, one, latest.get(one.digest)), "held": held.get(one.digest),
         "waived": _waived(waivers[one.digest])}
        for one in engines
    ]  # fmt: skip
    columns = (
        "engine", "variant", "result", "fidelity", "quality", "megabytes", "kind", "simulated",
        "held", "waived",
    )  # fmt: skip
    Output(as_json).table(rows, columns)
    return ExitCode.OK


@engine.command()
@engine_argument
@json_option
def show(engine_id: str, as_json: bool) -> int:
    """Show one engine: key, files, repairs, verdicts, and who signed what."""
    from enginekeeper.cli._engine_text import describe, described
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    document = described(registry, registry.engine(engine_id))
    Output(as_json).document(document, describe(document))
    return ExitCode.OK


@engine.command()
@engine_argument
@json_option
def explain(engine_id: str, as_json: bool) -> int:
    """Explain why an engine passed or failed: the evidence of its latest verdict, and its key."""
    from enginekeeper.cli._engine_text import key_table
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.validation.report import render

    found, document = verified_document(open_bench(), engine_id)
    key = {**found.key.as_dict(), "digest": str(found.key.digest())}
    text = f"{render(document)}\nWhat it was built from\n{key_table(found.key)}"
    Output(as_json).document({**document, "key": key}, text)
    return ExitCode.OK


engine.add_command(diff)
engine.add_command(nearest)


@engine.command()
@engine_argument
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--weights",
    type=NamedPath(),
    help="Checkpoint that is here already; held against the one that the builder signed.",
)
@json_option
def refit(engine_id: str, destination: Path, weights: Path | None, as_json: bool) -> int:
    """Fetch a weight-stripped engine, put its weights back, and write it to DESTINATION.

    Exits 11 for other weights than those it was built from, and where what comes out is not what
    was judged. Says nothing about whether it may run here: that is the gate's to say.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.refitting import refit_here

    show_progress()
    done = refit_here(open_bench(), engine_id, destination, weights)
    said = f"engine {done.engine.digest.short} was refitted and written to {destination}\n"
    said += "judged as it is" if done.judged else "never judged: the gate is closed"
    Output(as_json).outcome(done.as_dict(), f"{_marked(done.engine, said)}\n{done.storage}")
    return ExitCode.OK


@engine.command()
@engine_argument
@click.option(
    "--to",
    "destination",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to write the engine into; must not exist.",
)
@click.option(
    "--to-inspect", is_flag=True,
    help="Whatever the gate says, to look at and not to run: no placement, and in the audit log.",
)  # fmt: skip
@json_option
def fetch(engine_id: str, destination: Path, to_inspect: bool, as_json: bool) -> int:
    """Write an engine's files, after verifying the gate of this node, signature and every byte.

    Run again after an interruption, it goes on from what is there and verified. Exits as `gate`
    does where the engine may not run here; then nothing is written.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.fetching import fetch_here, fetch_to_inspect

    show_progress()
    output = Output(as_json)
    found = (fetch_to_inspect if to_inspect else fetch_here)(open_bench(), engine_id, destination)
    output.outcome(
        {**_written(found, destination), "to_inspect": to_inspect},
        _marked(found, f"engine {found.digest.short} verified and written to {destination}"),
    )
    if to_inspect:
        output.note("to look at, not to run: the gate was not asked, and no placement is recorded")
    return ExitCode.OK


@engine.command()
@engine_argument
@click.option(
    "--to",
    "destination",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to write engine/ and evidence.json into; must not exist.",
)
@json_option
def export(engine_id: str, destination: Path, as_json: bool) -> int:
    """Write an engine's files and all that is signed about it, to be verified anywhere.

    `ek engine verify DIRECTORY` needs this directory and a trust file, and nothing else. Exits 5
    for an engine that is quarantined or revoked. Where it is to run, `run-check` asks the gate.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from registry.bundles import write_directory
    from registry.exchange import evidence_of

    show_progress()
    registry = open_bench().registry
    found = registry.engine(engine_id)
    registry.verify_engine(found)
    registry.require_unheld(found)
    write_directory(registry.store, evidence_of(registry, found), destination)
    Output(as_json).outcome(
        _written(found, destination),
        _marked(found, f"engine {found.digest.short} and its evidence written to {destination}"),
    )
    return ExitCode.OK


@engine.command()
@click.argument("subject", metavar="DIRECTORY|ENGINE")
@click.option(
    "--trust", "trust_file", type=NamedPath(), help="Another trust file than this home's."
)
@json_option
def verify(subject: str, trust_file: Path | None, as_json: bool) -> int:
    """Check bytes, build statement, verdicts, summaries, waivers, and whose keys signed.

    A DIRECTORY is one that `engine export` or `bundle unpack` wrote, and is checked offline: no
    catalogue, no store. Exits 11 unless everything is as it was signed, or if it was revoked. What
    the verdicts say is for the gate: a failing one that was signed is in order here.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.bundles import directory_checks
    from registry.exchange import recorded_checks
    from registry.trust_file import read_trust

    bench = open_bench()
    trust = bench.trust if trust_file is None else read_trust(trust_file)
    if Path(subject).is_dir():
        checks = directory_checks(Path(subject), trust)
    else:
        registry = replace(bench.registry, trust=trust)
        checks = list(recorded_checks(registry, registry.engine(subject)))
    rows = [
        {**one.as_dict(), "ok": "yes" if one.fault is None else "NO",
         "signed_by": ", ".join(key[:12] for key in one.signers) or None}
        for one in checks
    ]  # fmt: skip
    output = Output(as_json)
    if as_json:
        output.json([one.as_dict() for one in checks])
    else:
        output.table(rows, ("what", "ok", "signed_by", "detail"))
    for one in checks:
        if one.fault is not None:
            output.note(f"{one.what}: {one.fault}")
    return ExitCode.OK if all(one.fault is None for one in checks) else ExitCode.INTEGRITY


@engine.command()
@engine_argument
@click.option(
    "--from",
    "directory",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory with a good copy of the engine, e.g. one that was fetched.",
)
@json_option
def heal(engine_id: str, directory: Path, as_json: bool) -> int:
    """Put an engine's files back into the store where it lost or damaged them.

    The copy is verified first: only the engine that was signed goes in.
    """
    from enginekeeper.orchestration.bench import open_bench

    healed = open_bench().registry.heal_engine(engine_id, directory)
    output = Output(as_json)
    output.table([{"healed": name} for name in healed], ("healed",))
    if not healed:
        output.note("nothing was lost or damaged")
    return ExitCode.OK


def _written(found: Engine, place: Path) -> dict[str, Any]:
    return {
        "engine": str(found.digest),
        "path": str(place.resolve()),
        "simulated": found.simulated,
    }


def _marked(found: Engine, said: str) -> str:
    return f"SIMULATED: {said}" if found.simulated else said


def _waived(waivers: list[Waiver]) -> str | None:
    return ", ".join(rule for one in waivers for rule in one.rules) or None


def _row(registry: Registry, one: Engine, latest: Verdict | None) -> dict[str, Any]:
    from enginekeeper.cli._bundles import bundle_mark
    from enginekeeper.configs.vllm_bundle import is_vllm_bundle

    signatures = registry.signatures(one, [] if latest is None else [latest])
    fault = next((found.fault for found in signatures if found.fault is not None), None)
    row = {
        "engine": one.digest.short,
        "variant": one.variant,
        "result": "unjudged" if latest is None else str(latest.result),
        "fidelity": None if latest is None else latest.fidelity,
        "quality": None if latest is None else latest.quality,
        "megabytes": round(one.size / 1e6),
        "kind": bundle_mark(bundle=is_vllm_bundle(one.key)),
        "simulated": "SIMULATED" if one.simulated else None,
        "digest": str(one.digest),
        "stored": registry.locate(one.path),
        "summary": None if latest is None else latest.summary,
        "fault": fault,
    }
    if fault is None:
        return row
    return {**row, "result": "unverified", "fidelity": None, "quality": None, "summary": None}
