"""Starts flows: in this process, or against the Prefect server that the environment names.

An empty plan never imports Prefect: there is nothing to orchestrate.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginekeeper.errors import UnavailableError
from enginekeeper.orchestration.bench import Bench, open_bench
from enginekeeper.orchestration.channels import into_channel
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.orchestration.plan import Action
from enginekeeper.orchestration.planning import plan_spec, planned_outcome
from registry.digests import Digest

_FLOWS = (Path(__file__).parents[1] / "_flows", Path(__file__).parents[2] / "flows")

# Prefect's own defaults send usage data, give an in-process server 20 s to start (a busy
# machine needs more), and log each failure with a traceback that the flow reports in its own
# words; what the user has set stays set.
_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}


def run_build(order: BuildOrder) -> list[Outcome]:
    """Plans a spec and runs the build flow for what is left to do."""
    bench = open_bench()
    planned = plan_spec(bench, Path(order.path), order.only)
    settled = {Action.REUSE, Action.REFUSE}
    if order.audits and all(one.action in settled for one in planned):
        outcomes = [planned_outcome(one) for one in planned]
    else:
        outcomes = load_flow("build")(order)
    return [_in_channel(bench, order, outcome) for outcome in outcomes]


def _in_channel(bench: Bench, order: BuildOrder, outcome: Outcome) -> Outcome:
    """Puts a reused engine into the channel asked for, as the flow does with those it judges."""
    if outcome.ending is not Ending.REUSED or outcome.engine is None:
        return outcome
    said = into_channel(bench, order.channel, Digest.parse(outcome.engine))
    return replace(outcome, channel=said)


def load_flow(name: str) -> Any:  # noqa: ANN401 - a Prefect flow; the type needs the import
    """Loads a flow by the name of its script; raises UnavailableError without Prefect."""
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    try:
        from prefect.flows import load_flow_from_entrypoint  # noqa: PLC0415 - a second to import
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "Prefect is not installed", remedy="pip install 'enginekeeper[flows]'"
        ) from error
    script = next((folder / f"{name}.py" for folder in _FLOWS if folder.is_dir()), None)
    if script is None or not script.is_file():
        raise UnavailableError(f"the flow {name} is not installed", where=str(script))
    # a placeholder made from the syntax tree would hide import errors
    return load_flow_from_entrypoint(f"{script}:{name}", use_placeholder_flow=False)
