"""Reads what a benchmark measured: tokens per second of one GPU, from the tool's own report.

- `vllm bench serve --save-result`, and TensorRT-LLM's `benchmark_serving` with the same keys:
  generated tokens per second of the whole server, so that its number of GPUs has to be said;
- `trtllm-bench throughput --report_json`: generated tokens per second and GPU, without a server.

A run whose requests failed, even some, measured another traffic and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError

SERVED, OFFLINE = "bench serve", "trtllm-bench"


@dataclass(frozen=True)
class Throughput:
    """What a report says."""

    tokens_per_second: float
    """Generated ones, of one GPU."""

    tool: str


def read_throughput(path: Path, gpus: int) -> Throughput:
    """Reads a report of a server of so many GPUs; raises InputError for any other file."""
    report = read_json_object(path)
    where = str(path)
    offline = report.get("performance")
    if isinstance(offline, Mapping):
        return Throughput(_number(offline, "output_throughput_per_gpu_tok_s", where), OFFLINE)
    if failed := report.get("failed"):
        raise InputError(
            "requests of this run failed: it measured another traffic",
            where=where,
            actual=f"{failed} failed",
            expected="none",
            remedy="measure again at a rate that the server stands",
        )
    return Throughput(_number(report, "output_throughput", where) / gpus, SERVED)


def _number(report: Mapping[str, Any], name: str, where: str) -> float:
    value = report.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(
            f"{name} is not in this report",
            where=where,
            actual=repr(value)[:100],
            expected="a report of vllm bench serve, benchmark_serving or trtllm-bench",
        )
    return float(value)
