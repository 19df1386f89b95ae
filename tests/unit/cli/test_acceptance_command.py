"""`ek acceptance` on a host without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet.interface import NullNvml
from enginekeeper.specs.loader import load_variants
from enginekeeper.toolchains.installation import State

Ek = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", NullNvml)


def test_without_a_gpu_it_says_what_it_would_do_and_exits_10(ek: Ek) -> None:
    said = ek("acceptance", "--gpu", "a100-sxm-80gb")

    assert said.code == ExitCode.UNAVAILABLE
    assert "fp8-needs-8.9" in said.out
    assert "build, judge, report" in said.out
    assert "nothing is built" in said.err
    assert "there is no NVIDIA driver here" in said.err
    assert ek("acceptance", "--json").json["release"] == "tensorrt-llm-1.2.1"


def test_what_is_left_out_is_not_said_to_be_built(ek: Ek) -> None:
    said = ek("acceptance", "--only", "*.fp8.*")

    rows = [line.split() for line in said.out.splitlines()[1:]]
    assert [row[1] for row in rows] == ["fp8"]
    assert ek("acceptance", "--only", "nothing").code == ExitCode.NOT_FOUND


class Simulated(NullNvml):
    @property
    def simulated(self) -> bool:
        return True


def test_what_a_simulated_nvml_was_asked_is_marked_in_every_row(
    ek: Ek, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "SIMULATED" not in ek("acceptance").out
    monkeypatch.setattr("enginekeeper.fleet.nvml.open_nvml", Simulated)

    said = ek("acceptance")

    heading, *rows = said.out.splitlines()
    assert heading.endswith("SIMULATED")
    assert rows
    assert all(row.endswith("SIMULATED") for row in rows)
    assert ek("acceptance", "--json").json["simulated"] is True


def test_its_spec_is_one_that_can_be_planned(ek: Ek, tmp_path: Path) -> None:
    spec = tmp_path / "acceptance.yaml"

    ek("acceptance", "--gpu", "l4", "--gpu", "b200", "--write-spec", spec)

    assert {one.target.gpu for one in load_variants(spec)} == {"l4", "b200"}


def test_a_spec_that_cannot_be_written_is_no_defect_of_ours(ek: Ek, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    said = ek("acceptance", "--write-spec", tmp_path / "file" / "spec.yaml")

    assert said.code == ExitCode.INVALID_INPUT
    assert "the file cannot be written" in said.err
    assert ek("acceptance", "--write-spec", tmp_path / "new" / "spec.yaml").code == (
        ExitCode.UNAVAILABLE
    )
    assert (tmp_path / "new" / "spec.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--gpu", "h1000"], ExitCode.INVALID_INPUT),
        (["--toolchain", "tensorrt-llm-9"], ExitCode.NOT_FOUND),
    ],
)
def test_what_nobody_knows_is_named(ek: Ek, words: list[str], code: ExitCode) -> None:
    said = ek("acceptance", *words)

    assert said.code == code
    assert words[1] in said.err


def test_a_dry_run_builds_nothing_where_everything_is_there(
    ek: Ek, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.orchestration.accepting.state_of", lambda *_: State.READY)

    said = ek("acceptance", "--toolchain", "simulated-tensorrt-llm-1.2.1", "--dry-run")

    assert said.code == ExitCode.OK
    assert said.err.startswith("SIMULATED: ")


def test_an_unknown_toolchain_is_named_with_the_one_that_was_meant(ek: Ek) -> None:
    said = ek("acceptance", "--toolchain", "tensorrt-llm-1.2.11")

    assert said.code == ExitCode.NOT_FOUND
    assert "tensorrt-llm-1.2.1" in said.err


def test_a_report_that_was_verified_is_shown_and_a_missing_one_not_found(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"simulated": True, "finished": "2026-11-26", "row": "| SmolLM2 |"}
    place = "enginekeeper.orchestration.acceptance_run.verified_report"

    missing = ek("acceptance", "--verify", tmp_path)
    monkeypatch.setattr(place, lambda *_: document)
    shown = ek("acceptance", "--verify", tmp_path)

    both = ek("acceptance", "--verify", tmp_path, "--write-spec", tmp_path / "spec.yaml")

    assert (both.code, (tmp_path / "spec.yaml").exists()) == (ExitCode.USAGE, False)
    assert missing.code == ExitCode.NOT_FOUND
    assert shown.code == ExitCode.OK
    assert shown.out.splitlines() == ["SIMULATED: signed and whole: 2026-11-26", "| SmolLM2 |"]
