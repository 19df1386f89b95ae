"""Reports of benchmarks: tokens per second of one GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import InputError
from enginekeeper.throughput import OFFLINE, SERVED, Throughput, read_throughput

SERVE = {"duration": 60.0, "completed": 1000, "failed": 0, "output_throughput": 8000.0,
         "total_token_throughput": 24000.0}  # fmt: skip
BENCH = {"performance": {"system_output_throughput_tok_s": 8000.0,
                         "output_throughput_per_gpu_tok_s": 2000.0}}  # fmt: skip


def written(tmp_path: Path, report: dict[str, Any]) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    return path


def test_a_servers_tokens_are_shared_out_over_its_gpus(tmp_path: Path) -> None:
    assert read_throughput(written(tmp_path, SERVE), 4) == Throughput(2000.0, SERVED)


def test_trtllm_bench_says_itself_what_a_gpu_does(tmp_path: Path) -> None:
    assert read_throughput(written(tmp_path, BENCH), 1) == Throughput(2000.0, OFFLINE)


def test_a_run_whose_requests_failed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="requests of this run failed"):
        read_throughput(written(tmp_path, {**SERVE, "failed": 3}), 1)


@pytest.mark.parametrize(
    "report",
    [{}, {"output_throughput": "8000"}, {"output_throughput": True}, {"performance": {}}],
)
def test_what_is_no_report_is_refused(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="throughput"):
        read_throughput(written(tmp_path, report), 1)
