"""`gate`: may this engine be deployed in that environment?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._bundles import BUNDLE
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.environments import Environment

CODES = {
    "ok": ExitCode.OK,
    "closed": ExitCode.FAIL,
    "inconclusive": ExitCode.INCONCLUSIVE,
    "refused": ExitCode.REFUSED,
    "integrity": ExitCode.INTEGRITY,
}


@click.command()
@click.argument("engine_id", metavar="ENGINE")
@click.option(
    "--environment",
    type=NamedPath(),
    help="JSON file of another node's environment; this node's if left out.",
)
@json_option
def gate(engine_id: str, environment: Path | None, as_json: bool) -> int:
    """Decide whether ENGINE may run on this node (or in another environment), and say why.

    On this node an engine for a GPU is asked about under the driver that NVML names; where there
    is no GPU, and for every other engine, about the CPU.

    Exits 0 open, 5 closed, 6 inconclusive, 8 refused by a rule, 11 signature failure.
    """
    from enginekeeper.configs.vllm_bundle import is_vllm_bundle
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.nodes import ThisNode

    bench = open_bench()
    asked = bench.registry.engine(engine_id)
    if environment is None:
        decision = ThisNode(bench).gate(asked)
    else:
        decision = bench.registry.gate(engine_id, read_environment(environment))
    bundle = is_vllm_bundle(asked.key)
    text = f"{decision.outcome}: {decision.reason}\n  rule:     {decision.rule}\n"
    text += "".join(f"  evidence: {line}\n" for line in decision.evidence)
    text += f"  engine:   {decision.engine}\n  on:       {decision.environment}"
    text += f"\n  kind:     {BUNDLE}" if bundle else ""
    Output(as_json).document({**decision.as_dict(), "serving_bundle": bundle}, text)
    return CODES[str(decision.family)]


def read_environment(path: Path) -> Environment:
    """Reads another node's environment from a JSON file; raises InputError."""
    from enginekeeper.documents import read_json_object
    from enginekeeper.errors import InputError
    from registry.environments import environment_from_dict
    from registry.errors import InvalidRecordError

    try:
        return environment_from_dict(read_json_object(path))
    except InvalidRecordError as error:
        raise InputError(
            error.what, where=str(path), actual=error.actual, expected=error.expected
        ) from error
