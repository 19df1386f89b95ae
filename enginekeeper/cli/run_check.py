"""`run-check`: starts no engine that is not proven for this node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enginekeeper.orchestration.bench import Bench
    from enginekeeper.orchestration.run_check import RunCheck
    from enginekeeper.settings import Settings


@click.command("run-check")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="DIRECTORY [-- COMMAND...]")
@click.option("--model", help="Check what was pulled of this model, with --channel.")
@click.option("--channel", metavar="CHANNEL", help="Of this channel; then without DIRECTORY.")
@click.option(
    "--endpoint",
    metavar="URL",
    help="Where COMMAND will answer, for the agent to ask: http://127.0.0.1:8000, for Triton with "
    "/v2/models/NAME.",
)
@click.option("--offline", is_flag=True, help="Ask the evidence beside the engine, no registry.")
@json_option
def run_check(
    arguments: tuple[str, ...], model: str | None, channel: str | None, endpoint: str | None,
    offline: bool, as_json: bool,
) -> int:  # fmt: skip
    """Check the engine in DIRECTORY, and start COMMAND only if it may run on this node.

    Its bytes, its builder's signature and a qualification for this node's GPU, CUDA and driver are
    checked, as `gate` does; where the registry does not answer, by the evidence that `pull` or
    `engine export` wrote beside it. What a registry that answers does not know is not started. For
    ExecStartPre leave COMMAND out. In a pod let it start the server: a container that Kubernetes
    restarts runs no init container again.

    COMMAND takes this process's place: its pid is recorded, so that the agent can say what runs.
    `{engine}` in it becomes the directory that was checked, ENGINEKEEPER_ENGINE_DIR too. The caches
    of a bundle for the PyTorch backend are copied for it and led to by their variables, if they are
    of this node's GPU, driver and packages. An engine that serves already is never stopped by this.
    Where assignments name another container image than ENGINEKEEPER_CONTAINER_IMAGE says, that is
    told on stderr and keeps nothing from starting.

    Exits 0 open, 4 no engine, 5 closed, 6 inconclusive, 8 refused by a rule, 10 nobody can tell,
    11 bytes or signature are wrong.
    """
    from enginekeeper.cli.gate import CODES
    from enginekeeper.fleet.http_get import check_url
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.images_here import images_for_start, otherwise
    from enginekeeper.orchestration.run_check import check_run

    bench = open_bench()
    directory, command = _asked(bench.settings.home, arguments, model, channel)
    if command and as_json:
        raise click.UsageError("--json is for a check alone: stdout is COMMAND's.")
    if endpoint is not None:
        check_url(endpoint, "--endpoint")
    found = check_run(bench, directory, offline=offline)
    output = Output(as_json)
    images = images_for_start(bench, found, channel) if found.decision.is_open else ()
    for line in otherwise(images, bench.settings.container_image):
        output.note(f"container: {line}")
    if not command:
        output.document({**found.as_dict(), "containers": list(images)}, _said(found))
    else:
        output.note(_said(found))
        if found.decision.is_open:
            given = _caches(bench, found, output)
            _become(bench.settings, found, command, endpoint, given)
    return CODES[str(found.decision.family)]


def _asked(
    home: Path, arguments: tuple[str, ...], model: str | None, channel: str | None
) -> tuple[Path, list[str]]:
    """Returns which directory is to be checked, and the command to start."""
    from enginekeeper.fleet.pulls import pulled_to

    if model is not None and channel is not None:
        pulled = pulled_to(home, model, channel)
        pulled.require_pulled(model, channel)
        return pulled.current, list(arguments)
    if model is not None or channel is not None:
        raise click.UsageError("--model and --channel go together.")
    if not arguments:
        raise click.UsageError("DIRECTORY is missing: which engine is to be started?")
    directory, *command = arguments
    return Path(directory), command


def _caches(bench: Bench, found: RunCheck, output: Output) -> Mapping[str, str]:
    """Restores the caches of a bundle for a start, and returns the variables that lead there."""
    from enginekeeper.orchestration.pulling import caches_for_start

    caches = caches_for_start(bench, found, found.directory.parent)
    if caches is None:
        return {}
    output.note(f"  caches:   {caches.refused or 'restored for this start'}")
    return caches.environment


def _become(
    settings: Settings, found: RunCheck, command: list[str], endpoint: str | None,
    given: Mapping[str, str],
) -> NoReturn:  # fmt: skip
    """Records this process as one that runs the engine, and lets the command take its place."""
    import os
    import signal
    import sys

    from enginekeeper.errors import InputError
    from enginekeeper.fleet.runs import record_run

    engine = str(found.directory)
    program, *rest = (part.replace("{engine}", engine) for part in command)
    record = record_run(
        settings.home, found.engine, found.directory, endpoint=endpoint,
        image=settings.container_image,
    )  # fmt: skip
    sys.stderr.flush()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; a program expects the default
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvpe(  # noqa: S606 - the command is the operator's own, and no shell is asked
            program,
            [program, *rest],
            {**os.environ, **given, "ENGINEKEEPER_ENGINE_DIR": engine},
        )
    except OSError as error:
        record.unlink(missing_ok=True)
        raise InputError(
            f"the command cannot be started: {error.strerror}", where=program[:200]
        ) from error


def _said(found: RunCheck) -> str:
    from enginekeeper.cli._bundles import BUNDLE
    from enginekeeper.configs.vllm_bundle import is_vllm_bundle

    decision = found.decision
    source = found.source if found.silence is None else f"{found.source}: {found.silence}"
    return "\n".join([
        f"{decision.outcome}: {decision.reason}",
        f"  rule:     {decision.rule}",
        *(f"  evidence: {line}" for line in decision.evidence),
        f"  engine:   {found.engine}",
        f"  bytes:    verified in {found.directory}",
        f"  on:       {decision.environment}",
        f"  by:       {source}",
        *([f"  kind:     {BUNDLE}"] if is_vllm_bundle(found.key) else ()),
    ])  # fmt: skip
