"""`compare-cost`: what engines would save a month, from the user's own figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Command, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enginekeeper.worth import Traffic, Worth


def _report(name: str) -> Callable[[Command], Command]:
    return click.option(
        name,
        type=click.Path(path_type=Path, dir_okay=False),
        help="The same from a report of vllm bench serve, benchmark_serving or trtllm-bench.",
    )


@click.command("compare-cost")
@click.option(
    "--traffic", type=float, required=True, help="Generated tokens per second at the peak, all in."
)
@click.option("--vllm", type=float, help="Generated tokens per second of one GPU under vLLM.")
@_report("--vllm-report")
@click.option(
    "--vllm-gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs of one server.",
)
@click.option("--engine", type=float, help="The same with an engine; measure it.")
@_report("--engine-report")
@click.option(
    "--engine-gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs of one server.",
)
@click.option("--gpu-hour", type=float, required=True, help="Price of one GPU for an hour.")
@click.option("--build-gpu-hours", type=float, default=0.0, help="GPU hours of a round of builds.")
@click.option("--rounds", type=float, default=0.0, help="Rounds of builds in a month.")
@click.option("--monthly-cost", type=float, default=0.0, help="People, storage: a month's cost.")
@json_option
def compare_cost(*, as_json: bool, **given: Any) -> int:  # noqa: ANN401 - click's own values
    """Compare what the same traffic costs a month under vLLM and with TensorRT-LLM engines.

    All figures are yours, entered or read from what your benchmark measured: nothing is measured
    here, and no throughput of an engine is known here.
    """
    from enginekeeper.worth import Traffic, worth

    baseline, first = _rate(given, "vllm")
    engine, second = _rate(given, "engine")
    asked = Traffic(
        tokens_per_second=given["traffic"],
        baseline=baseline,
        engine=engine,
        gpu_hour=given["gpu_hour"],
        baseline_gpus=given["vllm_gpus"],
        engine_gpus=given["engine_gpus"],
        build_gpu_hours=given["build_gpu_hours"],
        rounds_per_month=given["rounds"],
        monthly_cost=given["monthly_cost"],
    )
    found = worth(asked)
    output = Output(as_json)
    output.document(found.as_dict(), _text(asked, found))
    if first != second:
        output.note("the two rates were not measured alike: compare them at the same latency")
    return ExitCode.OK


def _rate(given: Mapping[str, Any], name: str) -> tuple[float, str | None]:
    """Returns tokens per second of one GPU and what measured them; entered ones nobody says."""
    from enginekeeper.throughput import read_throughput

    entered: float | None = given[name]
    report: Path | None = given[f"{name}_report"]
    if entered is not None and report is None:
        return entered, None
    if entered is not None or report is None:
        raise click.UsageError(f"give either --{name} or --{name}-report")
    found = read_throughput(report, given[f"{name}_gpus"])
    return found.tokens_per_second, found.tool


def _text(asked: Traffic, found: Worth) -> str:
    gain = found.break_even_gain
    least = "any gain that saves a server" if gain == 0 else f"{gain or 0:.1%} more tokens per GPU"
    pays = "no gain does: builds and operation cost more than all GPUs"
    gpus = f"{found.baseline_gpus} under vLLM, {found.engine_gpus} with engines"
    less = f"less {found.cost:,.0f} for builds and operation"
    lines = [
        f"GPUs          {gpus} ({found.gain:+.1%} tokens per GPU)",
        f"saved a month {found.gross_saving:,.0f} of GPUs, {less}: {found.net_saving:,.0f}",
        f"pays from     {pays if gain is None else least}",
    ]
    if found.baseline_gpus == found.engine_gpus and found.gain > 0:
        lines.append(
            f"              at {asked.tokens_per_second:,.0f} tokens/s it saves no whole server"
        )
    return "\n".join(lines)
