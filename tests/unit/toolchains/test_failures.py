from __future__ import annotations

import signal
from pathlib import Path

import pytest

from enginekeeper.toolchains.errors import (
    DiagnosedStepError,
    FailedStepError,
    StepCrashedError,
    StepDiskFullError,
    StepKilledError,
    StepPlace,
)
from enginekeeper.toolchains.failures import explain_exit


def _explain(
    tmp_path: Path, log: str, status: int = 1, toolchain: str = "inductor"
) -> FailedStepError:
    path = tmp_path / "step.log"
    path.write_text(log)
    return explain_exit(StepPlace("compile_engine", toolchain, path), status)


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 28] No space left on device",
        "safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)",
        "OSError: [Errno 122] Disk quota exceeded",
    ],
)
def test_a_full_disk_is_recognised_however_a_library_says_it(tmp_path: Path, line: str) -> None:
    assert isinstance(_explain(tmp_path, f"Traceback\n{line}\n"), StepDiskFullError)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("ModuleNotFoundError: No module named 'torch'", "toolchain sync inductor"),
        ("ImportError: x.so: undefined symbol: _Z", "toolchain sync inductor"),
        ("MemoryError", "memory ran out"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", "memory ran out"),
        ("torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler", "g++"),
        ("ValueError: something else", "step.log"),
    ],
)
def test_the_advice_follows_what_went_wrong(tmp_path: Path, line: str, advice: str) -> None:
    error = _explain(tmp_path, line)

    assert isinstance(error, StepCrashedError)
    assert error.remedy is not None
    assert advice in error.remedy


def test_too_small_a_shared_memory_is_no_full_disk(tmp_path: Path) -> None:
    error = _explain(
        tmp_path,
        "x [2] misc/shmutils.cc:88 NCCL WARN Error: failed to extend /dev/shm/nccl-WU88OE to "
        "9637892 bytes, error: No space left on device (28)\n",
        toolchain="tensorrt-llm-1.2.1",
    )

    assert isinstance(error, DiagnosedStepError)
    assert error.pattern == "shared-memory"


def test_a_step_that_was_killed_inside_a_container_is_told_as_killed(tmp_path: Path) -> None:
    assert isinstance(_explain(tmp_path, "[TRT] [I] building\n", 137), StepKilledError)


def test_a_kill_is_told_from_a_crash_by_its_signal(tmp_path: Path) -> None:
    assert isinstance(_explain(tmp_path, "", -signal.SIGKILL), StepKilledError)
    assert "SIGABRT" in _explain(tmp_path, "", -signal.SIGABRT).what
    assert "signal 99" in _explain(tmp_path, "", -99).what


def test_an_empty_or_missing_log_is_no_second_failure(tmp_path: Path) -> None:
    place = StepPlace("x", "y", tmp_path / "gone")

    assert explain_exit(place, 3).actual == "nothing in the log"
    assert _explain(tmp_path, "\n\n").actual == "nothing in the log"


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    error = _explain(tmp_path, "No space left on device\n" + "x" * 100_000 + "\nthe end\n")

    assert isinstance(error, StepCrashedError)
    assert error.actual == "the end"
