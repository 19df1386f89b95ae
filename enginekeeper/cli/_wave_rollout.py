"""`wave start` and what follows: letting a driver change go on, stopping it, turning it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._confirm import destroys, require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._wave_options import (
    change_options,
    change_to,
    fleet_options,
    traffic_of,
    traffic_options,
)

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from enginekeeper.orchestration.rollout.service import Announcement, WaveStep
    from registry.waves.types import Wave

wave_argument = click.argument("wave")
reason_option = click.option("--reason", required=True, help="Why; it is kept in the audit log.")


@click.command()
@change_options(required=True)
@fleet_options
@click.option("--skip", "skipped", multiple=True, metavar="SELECTOR", help="Not these nodes.")
@click.option(
    "--qualify", multiple=True, metavar="NODE",
    help="A drained node that takes the driver first; chosen where agents say that one is idle.",
)  # fmt: skip
@click.option(
    "--max-unavailable", default="1", show_default=True, metavar="N|N%",
    help="How many nodes may be away at once.",
)  # fmt: skip
@click.option("--canary", type=click.IntRange(0, 1000), default=1, show_default=True)
@click.option(
    "--soak", type=click.IntRange(0, 10080), default=10, show_default=True, metavar="MINUTES",
    help="How long the canary must be well.",
)  # fmt: skip
@click.option(
    "--patience", type=click.IntRange(1, 10080), default=60, show_default=True, metavar="MINUTES",
    help="How long a released node may take, or be silent, before it counts as failed.",
)  # fmt: skip
@click.option(
    "--stale-after", type=click.IntRange(1, 10080), metavar="MINUTES",
    help="How long a node may be silent before it counts as away: 3, for inventories a day.",
)  # fmt: skip
@click.option("--name", help="Name of the wave; driver and time if left out.")
@click.option("--webhook", metavar="URL", help="Told of every change, signed.")
@click.option("--deployment", help="Prefect deployment of the rebuild flow that judges and builds.")
@click.option("--spec", "specs", type=NamedPath(), multiple=True, help="Build specs of what runs.")
@traffic_options
@click.option("--dry-run", is_flag=True, help="Only show what it would begin with.")
@json_option
def start(
    driver: str,
    cuda: str | None,
    cuda_driver: str | None,
    places: tuple[Path, ...],
    selectors: tuple[str, ...],
    skipped: tuple[str, ...],
    qualify: tuple[str, ...],
    max_unavailable: str,
    canary: int,
    soak: int,
    patience: int,
    stale_after: int | None,
    name: str | None,
    webhook: str | None,
    deployment: str | None,
    specs: tuple[Path, ...],
    traffic: str | None,
    traffic_query: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Begin to roll a driver out: from now on every node is held until its engines are proven.

    Nothing is sent to a node: `wave check NODE` tells a script whether it may be upgraded, `wave
    hooks` what the GPU Operator needs, the webhook whoever listens. Let it go on with `wave
    advance`, from cron, or with `wave run`. Nodes go in the order of their names, or of --traffic
    as it is now. Exits 7 while nodes are held, 8 where an engine cannot work under the driver at
    all.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout import service
    from enginekeeper.orchestration.rollout.telling import webhook_secret
    from enginekeeper.orchestration.rollout.webhook import check_url
    from registry.waves.types import Terms

    bench = open_bench()
    if webhook is not None:
        check_url(webhook)
        webhook_secret(bench.settings)
    announcement = service.Announcement(
        change=change_to(driver, cuda, cuda_driver), places=places, selectors=selectors,
        skipped=skipped, qualify=qualify, name=name, webhook=webhook, deployment=deployment,
        specs=tuple(map(str, specs)), traffic=traffic_of(traffic, traffic_query),
        terms=Terms(
            max_unavailable=max_unavailable, canary=canary, soak_seconds=60 * soak,
            patience_seconds=60 * patience,
            stale_after_seconds=None if stale_after is None else 60 * stale_after,
        ),
    )  # fmt: skip
    return _begun(bench, announcement, Output(as_json), dry_run=dry_run)


def _begun(bench: Bench, announcement: Announcement, output: Output, *, dry_run: bool) -> int:
    from enginekeeper.cli._wave_text import left_out_said
    from enginekeeper.orchestration.rollout import service

    begin = service.draft if dry_run else service.start
    step = begin(bench.registry, announcement, now=_now())
    if step.going.plan.left_out:  # in no document of the wave
        output.note(left_out_said(step.going.plan))
    if not output.as_json:
        for kind in service.uncovered(step):
            output.note(f"no node qualifies {kind.product}: name a drained one with --qualify")
        if dry_run:
            output.note("dry run: nothing was recorded")
    return _told(bench, step, output, recorded=not dry_run)


@click.command()
@wave_argument
@click.option("--again", is_flag=True, help="Ask again for judgements and builds not done yet.")
@json_option
def advance(wave: str, again: bool, as_json: bool) -> int:
    """Look at the nodes of WAVE and let it go on by one step; run it as often as you like.

    Exits 0 when it has ended, 7 while it goes on, 5 when it has stopped.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout import service
    from enginekeeper.orchestration.rollout.dispatching import dispatch_to

    bench = open_bench()
    dispatch = dispatch_to(service.read_wave(bench.registry, wave), again=again)
    step = service.go_on(bench.registry, wave, now=_now(), dispatch=dispatch)
    return _told(bench, step, Output(as_json))


@click.command()
@wave_argument
@json_option
def status(wave: str, as_json: bool) -> int:
    """Show where each node of WAVE is and why, what has to be judged, and the time to safe.

    Shows what is recorded; changes nothing. Exit codes are those of `advance`.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout.service import read_wave

    found = read_wave(open_bench().registry, wave)
    return _show(found, Output(as_json))


@click.command()
@wave_argument
@reason_option
@destroys
@json_option
def abort(wave: str, reason: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """End WAVE: nothing more is released, held nodes stay held, upgraded ones stay upgraded."""
    from enginekeeper.orchestration.rollout import service

    return _ended(wave, reason, service.abort, "Abort", (dry_run, yes, as_json))


@click.command()
@wave_argument
@reason_option
@destroys
@json_option
def rollback(wave: str, reason: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Send the nodes of WAVE back to the driver they had, within its budget.

    A node is sent back when every engine on it is qualified under the driver it had.
    """
    from enginekeeper.orchestration.rollout import service

    return _ended(wave, reason, service.turn_back, "Roll back", (dry_run, yes, as_json))


@click.command()
@wave_argument
@json_option
def resume(wave: str, as_json: bool) -> int:
    """Let a stopped WAVE go on, when what failed was mended; what still fails stops it again."""
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout import service

    bench = open_bench()
    step = service.resume(bench.registry, wave, now=_now())
    return _told(bench, step, Output(as_json))


@click.command()
@wave_argument
@click.option(
    "--interval", type=click.IntRange(1, 3600), default=60, show_default=True, metavar="SECONDS"
)
@click.option("--deployment", help="Let a Prefect server's deployment of the wave flow do it.")
@json_option
def run(wave: str, interval: int, deployment: str | None, as_json: bool) -> int:
    """Let WAVE go on again and again until it has ended or stopped: flows/driver_wave.py."""
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.order import WaveOrder
    from enginekeeper.orchestration.rollout.service import read_wave
    from enginekeeper.orchestration.start import run_wave

    bench = open_bench()
    read_wave(bench.registry, wave)
    show_progress()
    run_wave(WaveOrder(wave, interval), deployment=deployment)
    return _show(read_wave(bench.registry, wave), Output(as_json))


def _ended(
    wave: str, reason: str, end: Callable[..., WaveStep], word: str, said: tuple[bool, bool, bool]
) -> int:
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.rollout.service import read_wave

    dry_run, yes, as_json = said
    bench, output = open_bench(), Output(as_json)
    if dry_run:
        return _show(read_wave(bench.registry, wave), output)
    require_yes(f"{word} wave {wave}?", yes=yes)
    return _told(bench, end(bench.registry, wave, reason, now=_now()), output)


def _told(bench: Bench, step: WaveStep, output: Output, *, recorded: bool = True) -> int:
    from enginekeeper.orchestration.rollout.telling import tell

    if recorded and (fault := tell(bench.registry, bench.settings, step.after, now=_now())):
        output.note(f"warning: {fault}")
    code = _show(step.after, output)
    if step.fault is not None:
        raise step.fault
    return code


def _show(wave: Wave, output: Output) -> int:
    from enginekeeper.cli._wave_text import NODE_COLUMNS, node_row, wave_document, wave_lines

    if output.as_json:
        output.json(wave_document(wave, _now()))
    else:
        output.table([node_row(one) for one in wave.nodes], NODE_COLUMNS)
        for line in wave_lines(wave, _now()):
            output.note(line)
    return exit_code_of_wave(wave)


def exit_code_of_wave(wave: Wave) -> ExitCode:
    """Returns 0 for a wave that has ended, 5 for one that stopped, 7 for one that goes on."""
    if wave.ended:
        return ExitCode.OK
    return ExitCode.FAIL if wave.phase == "stopped" else ExitCode.DRIFT


def _now() -> datetime:
    return datetime.now(UTC)
