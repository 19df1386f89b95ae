"""`compare-cost`: what engines would save a month, from the user's own figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.worth import Traffic, Worth


@click.command("compare-cost")
@click.option("--traffic", type=float, required=True, help="Tokens per second at the peak, all in.")
@click.option("--vllm", type=float, required=True, help="Tokens per second of one GPU under vLLM.")
@click.option("--engine", type=float, required=True, help="The same with an engine; measure it.")
@click.option("--gpu-hour", type=float, required=True, help="Price of one GPU for an hour.")
@click.option("--build-gpu-hours", type=float, default=0.0, help="GPU hours of a round of builds.")
@click.option("--rounds", type=float, default=0.0, help="Rounds of builds in a month.")
@click.option("--monthly-cost", type=float, default=0.0, help="People, storage: a month's cost.")
@json_option
def compare_cost(
    traffic: float,
    vllm: float,
    engine: float,
    gpu_hour: float,
    build_gpu_hours: float,
    rounds: float,
    monthly_cost: float,
    as_json: bool,
) -> int:
    """Compare what the same traffic costs a month under vLLM and with TensorRT-LLM engines.

    All figures are yours: nothing is measured here, and no throughput of an engine is known here.
    """
    from enginekeeper.worth import Traffic, worth

    asked = Traffic(
        tokens_per_second=traffic,
        baseline=vllm,
        engine=engine,
        gpu_hour=gpu_hour,
        build_gpu_hours=build_gpu_hours,
        rounds_per_month=rounds,
        monthly_cost=monthly_cost,
    )
    found = worth(asked)
    Output(as_json).document(found.as_dict(), _text(asked, found))
    return ExitCode.OK


def _text(asked: Traffic, found: Worth) -> str:
    gain = found.break_even_gain
    pays = "no gain does: builds and operation cost more than all GPUs"
    gpus = f"{found.baseline_gpus} under vLLM, {found.engine_gpus} with engines"
    less = f"less {found.cost:,.0f} for builds and operation"
    lines = [
        f"GPUs          {gpus} ({found.gain:+.1%} tokens per GPU)",
        f"saved a month {found.gross_saving:,.0f} of GPUs, {less}: {found.net_saving:,.0f}",
        f"pays from     {pays if gain is None else f'{gain:.1%} more tokens per GPU'}",
    ]
    if found.baseline_gpus == found.engine_gpus and found.gain > 0:
        lines.append(
            f"              at {asked.tokens_per_second:,.0f} tokens/s it saves no whole GPU"
        )
    return "\n".join(lines)
