"""The root command and its groups; each group's module is imported only when it is used."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

import click

from enginekeeper import __version__
from enginekeeper.cli._errors import ExitCode, of_the_host, report, report_usage
from registry.disks import full_disk_said
from registry.errors import DiagnosedError

# name -> (module, attribute, one line of help). The help stands here so that `ek --help`
# imports no group.
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "plan": ("build", "plan", "Show what a build spec would reuse, build or refuse, and why."),
    "build": ("build", "build", "Build, prove and publish the engines of a build spec."),
    "rebuild": ("rebuild", "rebuild", "Judge again and build what a change asks for."),
    "support": ("support", "support", "Show by what a model can be served."),
    "compare-cost": ("compare_cost", "compare_cost", "Show whether engines pay, by your figures."),
    "checkpoint": ("checkpoint", "checkpoint", "Audit and repair TensorRT-LLM checkpoints."),
    "faults": ("faults", "faults", "Put known faults into copies of a checkpoint and audit them."),
    "suite": ("suite", "suite", "List, show and add probe suites."),
    "validate": ("validate", "validate", "Judge a checkpoint against its source model."),
    "compare-answers": (
        "compare_answers",
        "compare_answers",
        "Compare answers to a task, source against engine.",
    ),
    "report": ("report", "report", "Write a verdict as one HTML file."),
    "engine": ("engine", "engine", "List, show, verify, fetch, export, revoke engines."),
    "bundle": ("bundle", "bundle", "Carry engines with their evidence in one file."),
    "channel": ("channel", "channel", "Show channels, fill them, roll them back."),
    "gc": ("gc", "gc", "Remove engines and bytes that nothing reaches any more."),
    "lineage": ("lineage", "lineage", "Show what something came from and what came of it."),
    "audit": ("audit", "audit", "Show and verify the log of every change."),
    "gate": ("gate", "gate", "Decide whether an engine may be deployed on a node."),
    "waiver": ("waiver", "waiver", "Let an engine run in spite of a rule, for a time, signed."),
    "snapshot": ("snapshot", "snapshot", "Sign the registry's state, so that none sets it back."),
    "where": ("where", "where", "Show which engine is where: over the fleet, or here."),
    "nodes": ("node", "nodes", "List the nodes of the fleet: GPUs, driver, health."),
    "node": ("node", "node", "Enrol, label, show and retire nodes."),
    "sim": ("sim", "sim", "Make simulated nodes, for demonstrations."),
    "serve": ("serve", "serve", "Take what agents say, and tell them what should run."),
    "agent": ("agent", "agent", "Say what is on this node: GPUs, driver, engines."),
    "resolve": ("resolve", "resolve", "Name the engine that this node is to run."),
    "pull": ("pull", "pull", "Bring an engine to this node, and switch to it or back."),
    "run-check": ("run_check", "run_check", "Start an engine only if it may run on this node."),
    "export": ("export", "export", "Write what Triton, trtllm-serve or vLLM need to load one."),
    "assign": ("assign", "assign", "Say which channel should run on which nodes."),
    "drift": ("drift", "drift", "Show what runs otherwise than it should."),
    "wave": ("wave", "wave", "Plan driver and CUDA changes over the fleet."),
    "acceptance": ("acceptance", "acceptance", "Say what a GPU host lacks, and what it would do."),
    "failures": ("failures", "failures", "List builds that failed and are not tried again yet."),
    "timing-caches": ("timing_caches", "timing_caches", "List the timing caches of builds."),
    "advisories": (
        "advisories",
        "advisories",
        "List engines built by releases with known vulnerabilities.",
    ),
    "rules": ("rules", "rules", "List, show and test the compatibility rules."),
    "toolchain": ("toolchain", "toolchain", "List, install and check toolchains."),
    "store": ("store", "store", "Try, scrub and sweep the artifact store."),
    "key": ("key", "key", "List, make, trust, revoke signing keys; explain keys of engines."),
    "trust": ("trust", "trust", "Show and change how many must sign, and the snapshot policy."),
    "db": ("db", "db", "Migrate, check, back up and restore the catalogue."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"enginekeeper.cli.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes are listed in README.md.",
)
@click.version_option(__version__, prog_name="enginekeeper")
def cli() -> None:
    """Build, prove and keep TensorRT-LLM engines across a GPU fleet."""


def run() -> NoReturn:
    """Runs the command line; every error ends in its exit code, without a traceback."""
    _end_cleanly_by(signal.SIGTERM, signal.SIGHUP)
    as_json = _wants_json(sys.argv)
    try:
        with full_disk_said():
            _check_text(sys.argv)
            code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except click.ClickException as error:
        sys.exit(report_usage(error, as_json=as_json))
    except DiagnosedError as error:
        sys.exit(report(error, as_json=as_json))
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away: nobody is left to tell
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - the outermost loop: a defect is reported, not shown
        if (told := of_the_host(error)) is not None:
            sys.exit(report(told, as_json=as_json))
        from enginekeeper.cli._crash import report_crash

        sys.exit(report_crash(error, sys.argv, as_json=as_json))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _check_text(arguments: Sequence[str]) -> None:
    """Raises UsageError for an argument that no document could hold."""
    for number, argument in enumerate(arguments):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"Argument {number} is not UTF-8: {argument!a}") from None


def _end_cleanly_by(*numbers: signal.Signals) -> None:
    """Lets these signals end the process as Ctrl-C does: whatever is open is left in order."""
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores one of them
            signal.signal(number, _end)


def _end(number: int, _frame: object) -> NoReturn:
    os.write(2, b"terminated\n")  # sys.stderr may be in the middle of a line
    sys.exit(128 + number)


def _wants_json(argv: Sequence[str]) -> bool:
    """Says whether a command line asks for JSON; it may not have come as far as being parsed."""
    return "--json" in argv or "-ojson" in argv or ("-o", "json") in pairwise(argv)
