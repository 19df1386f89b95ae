"""`pull`: brings an engine to this node, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.orchestration.pulling import Pulled


@click.command()
@click.argument("name", metavar="MODEL|ENGINE", required=False)
@click.option("--channel", metavar="CHANNEL", help="Pull what it means for MODEL on this node.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIRECTORY",
    help="Where engines are kept; DIRECTORY/current/engine is the one to load.",
)  # fmt: skip
@click.option("--rollback", is_flag=True, help="Back to the engine that was current before.")
@click.option("--dry-run", is_flag=True, help="Only say what would come, and ask the gate.")
@json_option
def pull(
    name: str | None, channel: str | None, into: Path, rollback: bool, dry_run: bool, as_json: bool
) -> int:
    """Bring an engine that is qualified for this node here, and switch to it in one step.

    Signature, manifest, every byte and the gate of this node are verified; the engine lies whole
    beside the current one before the link DIRECTORY/current is switched. The one before is kept
    for --rollback, and so is one that a process was started with. Run again, it goes on where it
    was interrupted. No process is stopped or started: restart the server through `run-check`.

    Exits as `gate` does where the engine may not run here; then nothing is pulled.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.pulling import bytes_missing, roll_back, wanted
    from enginekeeper.orchestration.pulling import pull as pull_it

    if (name is None) is not rollback:
        raise click.UsageError("Name a MODEL with --channel, or an ENGINE, or say --rollback.")
    show_progress()
    bench, output = open_bench(), Output(as_json)
    if name is None:
        _told(roll_back(bench, into), output)
        return ExitCode.OK
    wish = wanted(bench, name, channel, into)
    if dry_run:
        missing = bytes_missing(bench, wish)
        document = {**wish.decision.as_dict(), "bytes_missing": missing}
        output.outcome(
            document, f"engine {wish.engine.digest.short}: {missing} bytes; nothing was changed"
        )
        return ExitCode.OK
    _told(pull_it(bench, wish), output)
    return ExitCode.OK


def _told(done: Pulled, output: Output) -> None:
    state = done.state
    output.outcome(
        done.as_dict(),
        f"{state.model}: current is now {state.current}, before it {state.previous or 'none'}",
    )
    if done.caches is not None:
        fit = "caches: restored beside it; `run-check` gives each start a copy of its own"
        said = done.caches.refused
        output.note(fit if said is None else f"caches: refused, it starts without them: {said}")
    if not done.check.decision.is_open:
        output.note(f"without the registry it would not start: {done.check.decision.reason}")
