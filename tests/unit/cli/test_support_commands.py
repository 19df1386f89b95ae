"""`support`, `compare-cost` and `plan --memory`: what they print and how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from tests.unit.cli.test_plan_command import have_source
from tests.unit.compatibility.test_sizes import LLAMA_70B

Ek = Callable[..., Any]
FIGURES = ("--traffic", "100000", "--vllm", "2500", "--engine", "3125", "--gpu-hour", "2")


def test_a_model_is_read_from_its_directory(ek: Ek, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["OlmoeForCausalLM"]}))

    said = ek("support", tmp_path, "--json")

    assert said.code == ExitCode.OK
    assert (said.json["architecture"], said.json["route"]) == ("OlmoeForCausalLM", "vllm")
    assert "vLLM meanwhile" in said.json["next"]


def test_an_architecture_is_taken_by_its_name(ek: Ek) -> None:
    said = ek("support", "Qwen3ForCausalLM")

    assert "tensorrt-llm-1.0.0 to" in said.out
    assert "tensorrt-llm from 0.20.0 or earlier" in said.out
    assert "vllm from 0.32.0 or earlier" in said.out
    assert "next: set toolchain" in said.err


def test_what_vllm_has_dropped_is_told_with_the_last_release_that_had_it(ek: Ek) -> None:
    said = ek("support", "Dots1ForCausalLM")

    assert "vllm 0.23.0 was the last; 0.32.0 is used here" in said.out


def test_what_is_neither_is_not_found_and_what_has_no_architecture_is_invalid(
    ek: Ek, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert ek("support", tmp_path / "gone").code == ExitCode.NOT_FOUND
    assert ek("support", tmp_path).code == ExitCode.INVALID_INPUT


def test_the_saving_is_told_in_words_and_in_numbers(ek: Ek) -> None:
    assert "40 under vLLM, 32 with engines (+25.0%" in ek("compare-cost", *FIGURES).out
    assert ek("compare-cost", *FIGURES, "--json").json["engine_gpus"] == 32


def test_figures_that_are_none_are_invalid_input(ek: Ek) -> None:
    assert ek("compare-cost", *FIGURES, "--engine", "0").code == ExitCode.INVALID_INPUT


def test_figures_beyond_all_measure_are_invalid_input_and_no_defect(ek: Ek) -> None:
    for figure in ("1e300", "1e-300"):
        assert ek("compare-cost", *FIGURES, "--vllm", figure).code == ExitCode.INVALID_INPUT


def test_rates_are_taken_from_reports(ek: Ek, tmp_path: Path) -> None:
    served, bench = tmp_path / "vllm.json", tmp_path / "trtllm.json"
    served.write_text(json.dumps({"output_throughput": 10000.0, "failed": 0}))
    bench.write_text(json.dumps({"performance": {"output_throughput_per_gpu_tok_s": 3125.0}}))

    said = ek("compare-cost", "--traffic", "100000", "--vllm-report", served, "--vllm-gpus", "4",
              "--engine-report", bench, "--gpu-hour", "2")  # fmt: skip

    assert "40 under vLLM, 32 with engines (+25.0%" in said.out
    assert "not measured alike" in said.err


def test_a_rate_is_entered_or_read(ek: Ek, tmp_path: Path) -> None:
    both = ek("compare-cost", *FIGURES, "--vllm-report", tmp_path / "report.json")
    none = ek("compare-cost", "--traffic", "1", "--engine", "2", "--gpu-hour", "2")

    assert (both.code, none.code) == (ExitCode.USAGE, ExitCode.USAGE)
    assert "either --vllm or --vllm-report" in none.err


def test_a_server_has_a_gpu_whoever_says_its_rate(ek: Ek) -> None:
    said = ek("compare-cost", *FIGURES, "--vllm-gpus", "0")

    assert (said.code, "--vllm-gpus" in said.err) == (ExitCode.USAGE, True)


@pytest.mark.usefixtures("site")
def test_a_plan_shows_what_fits_on_each_gpu(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_source(monkeypatch)
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "model: {name: tiny, path: /nowhere}\ntargets: [l4, cpu]\nrecipes: [none]\n"
        "toolchain: tensorrt-llm-1.2.1\n"
    )

    said = ek("plan", spec, "--memory")

    rows = said.out.splitlines()
    assert rows[0].split()[:2] == ["VARIANT", "GPU"]
    assert "22.5" in rows[1]
    assert rows[2].split()[1:] == ["-"] * 11
    assert "estimates" in said.err
    assert "no figures: the CPU" in said.err


def test_what_fits_is_known_by_the_config_alone(ek: Ek, tmp_path: Path) -> None:
    spec, config = tmp_path / "spec.yaml", tmp_path / "config.json"
    spec.write_text(
        "model: {name: llama-70b, path: /nowhere}\ntargets: [h100-sxm]\nrecipes: [fp8]\n"
        "toolchain: tensorrt-llm-1.2.1\n"
    )
    config.write_text(json.dumps(LLAMA_70B))

    said = ek("plan", spec, "--memory", "--config", config)
    row = ek("plan", spec, "--memory", "--config", config, "--json").json[0]

    assert said.code == ExitCode.OK
    assert "67.7" in said.out  # GiB of FP8 weights, tables in 16 bits
    assert row["memory"]["weights"] == pytest.approx(72.66e9, rel=0.001)


def test_a_config_is_for_memory_alone(ek: Ek, tmp_path: Path) -> None:
    said = ek("plan", tmp_path / "spec.yaml", "--config", tmp_path / "config.json")

    assert said.code == ExitCode.USAGE
    assert "goes with --memory" in said.err
