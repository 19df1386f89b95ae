"""Causes found in logs: every case of the corpus, what decides, and what stays unknown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.failure_taxonomy import UNKNOWN, corpus, document, log_of, said_of
from enginekeeper.errors import InputError
from enginekeeper.toolchains import taxonomy
from enginekeeper.toolchains.errors import DiagnosedStepError, StepCrashedError, StepPlace
from enginekeeper.toolchains.failures import explain_exit
from enginekeeper.toolchains.taxonomy import LASTING, FailureGroup, diagnose, failure_patterns
from registry.errors import DiagnosedError

DOCS = Path(__file__).parents[3] / "docs" / "failures.md"
PLAN = (
    "[TRT] [E] 6: The engine plan file is not compatible with this version of TensorRT, "
    "expecting library version 8.2.3 got 8.2.1, please rebuild."
)


def _explain(tmp_path: Path, log: str, toolchain: str = "tensorrt-llm-1.2.1") -> Any:  # noqa: ANN401 - several classes
    path = tmp_path / "step.log"
    path.write_text(log)
    return explain_exit(StepPlace("build_trtllm", toolchain, path), 1)


@pytest.mark.parametrize("case", corpus(), ids=lambda case: case["name"])
def test_a_reported_failure_gets_its_own_cause_and_no_other(case: dict[str, Any]) -> None:
    assert said_of(case) == case["group"]


def test_every_group_has_a_log_and_so_have_unknown_ones() -> None:
    groups = {case["group"] for case in corpus()}

    assert groups == {*map(str, FailureGroup), UNKNOWN}


def test_every_pattern_is_told_by_some_log_of_the_corpus_or_is_named_here() -> None:
    told = {found.pattern.id for case in corpus() if (found := diagnose(log_of(case)))}

    assert told == {pattern.id for pattern in failure_patterns()}


def test_the_page_about_failures_is_the_generated_one() -> None:
    assert DOCS.read_text(encoding="utf-8") == document(), (
        "stale: python benchmarks/failure_taxonomy.py --write docs/failures.md"
    )


def test_the_first_cause_counts_and_not_what_follows_from_it() -> None:
    oom = "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"

    both = diagnose(f"{PLAN}\n{oom}\n")

    assert both is not None
    assert both.pattern.group is FailureGroup.VERSION_MISMATCH


@pytest.mark.parametrize(
    "line",
    [
        "a=" * 100_000,
        "libpython3.11.so" * 25_000,
        "Encounter error '" * 25_000,
        "virtualMemoryBuffer.cpp::resizePhysical" * 25_000,
        "undefined symbol: " + "x" * 100_000,
        "CUDA runtime error in " * 25_000,
        "Device memory is insufficient to use tactic" * 25_000,
        "KeyError: '" + "x" * 100_000,
        "libcudnn" * 50_000,
        "shared memory segment /" * 25_000,
    ],
    ids=lambda line: str(line)[:20],
)
def test_a_long_line_that_nearly_fits_is_searched_in_linear_time(line: str) -> None:
    started = time.process_time()

    assert diagnose(line) is None

    assert time.process_time() - started < 2  # quadratic, it is 7 s and more


BANNER = (
    "This container was built for NVIDIA Driver Release 570.86 or later, but\n"
    "       version 535.85.02 was detected and compatibility mode is UNAVAILABLE."
)


@pytest.mark.parametrize(
    "warning",
    [
        "[TRT] [W] Requested amount of GPU memory (24793579520 bytes) could not be allocated.",
        BANNER,
        "CUDA capability sm_120 is not compatible with the current PyTorch installation.",
    ],
    ids=["memory", "banner", "torch"],
)
def test_a_warning_on_the_way_gives_way_to_the_cause_after_it(warning: str) -> None:
    cause = "trtllm-build: error: unrecognized arguments: --shiny"

    alone, with_cause = diagnose(warning), diagnose(f"{warning}\n{cause}\n")

    assert alone is not None
    assert with_cause is not None
    assert alone.pattern.weak
    assert with_cause.pattern.group is FailureGroup.FLAG_DRIFT


NO_TACTIC = "[TRT] [E] 10: Could not find any implementation for node X."
PASSED_OVER = (
    "[TRT] [W] Tactic Device request: 5MB Available: 0MB. "
    "Device memory is insufficient to use tactic."
)


@pytest.mark.parametrize(
    ("lines", "group"),
    [
        ([NO_TACTIC], FailureGroup.NO_KERNEL),
        ([PASSED_OVER, NO_TACTIC], FailureGroup.OUT_OF_GPU_MEMORY),
        ([NO_TACTIC, PASSED_OVER], FailureGroup.NO_KERNEL),
        ([PASSED_OVER], None),
    ],
)
def test_no_kernel_after_too_little_memory_is_a_want_of_memory_and_not_remembered(
    lines: list[str], group: FailureGroup | None
) -> None:
    diagnosis = diagnose("\n".join(lines))

    assert (diagnosis and diagnosis.pattern.group) == group
    assert FailureGroup.OUT_OF_GPU_MEMORY not in LASTING


def test_what_a_runtime_warns_of_is_no_cause() -> None:
    line = "[json.exception.out_of_range.403] key 'max_draft_len' not found"

    assert diagnose(f"[TensorRT-LLM][WARNING] {line}\nIndexError: list index out of range") is None
    assert diagnose(f"unexpected error when creating modelInstanceState: {line}") is not None


def test_ten_lines_at_most_decide_and_the_one_that_did_is_among_them() -> None:
    lines = [f"line {number}" for number in range(20)]
    lines[10] = PLAN

    diagnosis = diagnose("\n".join(lines))

    assert diagnosis is not None
    assert diagnosis.line == PLAN
    assert len(diagnosis.evidence) == 10
    assert diagnosis.evidence[4] == PLAN


def test_a_long_line_is_cut_and_cannot_steer_a_terminal() -> None:
    diagnosis = diagnose(f"\x1b[31m{PLAN}{'x' * 1000}")

    assert diagnosis is not None
    assert len(diagnosis.line) == 300
    assert "\x1b" not in diagnosis.line


def test_the_user_sees_cause_remedy_and_lines(tmp_path: Path) -> None:
    error = _explain(tmp_path, f"before\n{PLAN}\nafter\n")

    assert isinstance(error, DiagnosedStepError)
    assert error.group == "version_mismatch"
    text = str(error)
    assert "another TensorRT" in text
    assert "build it again" in text
    assert f"log:      {PLAN}" in text
    assert "log:      after" in text


def test_a_remedy_names_the_toolchain(tmp_path: Path) -> None:
    error = _explain(tmp_path, "trtllm-build: error: unrecognized arguments: --shiny\n")

    assert error.remedy is not None
    assert "ek toolchain show tensorrt-llm-1.2.1" in error.remedy


def test_what_another_process_said_is_rebuilt_with_its_lines(tmp_path: Path) -> None:
    error = _explain(tmp_path, f"{PLAN}\n")

    rebuilt = DiagnosedError.from_dict(json.loads(json.dumps(error.as_dict())))

    assert isinstance(rebuilt, DiagnosedStepError)
    assert str(rebuilt) == str(error)


def test_an_unknown_failure_is_told_as_before(tmp_path: Path) -> None:
    error = _explain(tmp_path, "ValueError: something else\n")

    assert type(error) is StepCrashedError
    assert error.actual == "ValueError: something else"


def test_other_toolchains_are_not_searched(tmp_path: Path) -> None:
    assert type(_explain(tmp_path, f"{PLAN}\n", "inductor")) is StepCrashedError


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"pattern": "("}, "broken"),
        ({"after": "("}, "broken"),
        ({"group": "bad luck"}, "group"),
        ({"retries": 3}, "retries"),
    ],
)
def test_a_table_in_another_form_is_an_error(
    row: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {
        "id": "broken", "group": "driver", "pattern": "x", "cause": "c", "remedy": "r",
        "source": "s",
    }  # fmt: skip
    path = tmp_path / "patterns.json"
    path.write_text(json.dumps({"schema": 1, "patterns": [{**whole, **row}]}))
    monkeypatch.setattr(taxonomy, "_TABLE", path)

    with pytest.raises(InputError, match=said):
        failure_patterns.__wrapped__()
