"""`toolchain show` and `toolchain compare-help`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.simulated.parser import parser_of
from enginekeeper.cli._errors import ExitCode

Ek = Callable[..., Any]
NAME = "tensorrt-llm-1.2.1"


def test_a_release_is_shown_with_what_is_not_verified(ek: Ek) -> None:
    said = ek("toolchain", "show", NAME)

    assert said.code == ExitCode.OK
    assert "10.14.1" in said.out
    assert "NOT VERIFIED" in said.out
    assert "--gemm_plugin" in said.out
    assert "-gpu" not in said.err


def test_its_json_has_the_source_of_every_fact_and_option(ek: Ek) -> None:
    document = ek("toolchain", "show", NAME, "--json").json

    assert all(fact["source"] for fact in document["facts"].values())
    assert all(option["source"] for option in document["options"])
    assert document["recipes"]["10.0"] == ["none", "fp8", "nvfp4"]


def test_a_default_is_that_of_the_release_as_it_is_written(ek: Ek) -> None:
    shown = {
        line.split()[0]: line.split()[2]
        for line in ek("toolchain", "show", "tensorrt-llm-0.18.2").out.splitlines()
        if line.startswith("--")
    }

    assert shown["--tokens_per_block"] == "64"
    assert shown["--use_paged_context_fmha"] == "disable"
    assert shown["--context_fmha"] == "enable"


def test_a_release_without_engines_has_no_options_to_show(ek: Ek) -> None:
    document = ek("toolchain", "show", "tensorrt-llm-1.3.0rc22", "--json").json

    assert (document["options"], document["recipes"]) == ([], {})
    assert document["facts"]["engines"]["value"] == "removed"


def test_an_unknown_release_is_not_found(ek: Ek) -> None:
    said = ek("toolchain", "show", "tensorrt-llm-1.2.2")

    assert said.code == ExitCode.NOT_FOUND
    assert NAME in said.err


def test_a_release_is_compared_with_its_own_help(ek: Ek, tmp_path: Path) -> None:
    path = tmp_path / "help.txt"
    path.write_text(parser_of("1.2.1").format_help())

    assert ek("toolchain", "compare-help", NAME, path, "--json").json == []

    path.write_text(path.read_text().replace("--reduce_fusion", "--reduce_confusion"))
    said = ek("toolchain", "compare-help", NAME, path)
    assert said.code == ExitCode.DRIFT
    assert "reduce_confusion" in said.out


def test_what_a_help_settles_is_written_as_a_table(ek: Ek, tmp_path: Path) -> None:
    said, table = tmp_path / "help.txt", tmp_path / "table.json"
    said.write_text(parser_of("1.1.0").format_help())

    done = ek("toolchain", "compare-help", "tensorrt-llm-1.1.0", said, "--write-table", table)

    assert done.code == ExitCode.OK
    rows = {row["name"]: row for row in json.loads(table.read_text())["flags"]}
    assert "1.1.0" in rows["auto_parallel"]["has"]


@pytest.mark.parametrize("name", ["TensorRT-LLM", "TensorRT LLM"])
def test_the_help_of_another_release_settles_nothing(ek: Ek, tmp_path: Path, name: str) -> None:
    path, table = tmp_path / "help.txt", tmp_path / "table.json"
    said = f"[TensorRT-LLM] {name} version: 1.0.0\n" + parser_of("1.2.1").format_help()
    path.write_text(said)

    done = ek("toolchain", "compare-help", NAME, path, "--write-table", table)

    assert done.code == ExitCode.INVALID_INPUT
    assert "found:    1.0.0" in done.err
    assert not table.exists()
    path.write_text(said.replace("1.0.0", "1.2.1"))
    assert ek("toolchain", "compare-help", NAME, path).code == ExitCode.OK


def test_a_release_without_trtllm_build_has_no_help_to_compare(ek: Ek, tmp_path: Path) -> None:
    path = tmp_path / "help.txt"
    path.write_text(parser_of("1.2.1").format_help())

    done = ek("toolchain", "compare-help", "tensorrt-llm-1.3.0rc22", path)

    assert done.code == ExitCode.INVALID_INPUT
    assert "has no trtllm-build" in done.err
