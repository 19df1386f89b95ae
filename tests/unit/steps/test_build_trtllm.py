"""What the step reads out of the tool's words; lines as users reported them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.factories.step_modules import step_module

BUILDING = "[08/27/2025-08:22:22] [TRT-LLM] [I] Build TensorRT engine Unnamed Network 0"
SERIALIZED = "[08/27/2025-08:22:30] [TRT] [I] Serialized 12 timing cache entries"
PEAK = (
    "[08/27/2025-08:22:30] [TRT-LLM] [I] Build phase peak memory: 6978.95 MB, children: 12049.21 MB"
)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - a function of lines
    """Returns what the step says of a build of one rank whose log has these lines."""
    module, shared = step_module("build_trtllm"), step_module("_trtllm")
    making = shared.Making(Path("in"), 1, Path("tool"), [{"uuid": "GPU-a"}], Path("out"))

    def of(*lines: str) -> dict[str, Any]:
        def run_program(_making: Any, _words: Any, _version: str, hear: Any) -> None:  # noqa: ANN401
            for line in lines:
                hear(f"{line}\n")

        monkeypatch.setattr(module, "run_program", run_program)
        said: dict[str, Any] = module._build(making, [], "0.20.0")
        return said

    return of


def test_memory_and_the_caches_entries_are_read_from_the_log(heard: Any) -> None:  # noqa: ANN401
    said = heard(BUILDING, SERIALIZED, PEAK)

    assert said["peak_memory"] == {"host_mb": 6978.95, "children_mb": 12049.21}
    assert said["timing_cache"] == {"ranks": 1, "fresh": 0, "not_taken": 0, "entries": 12}


@pytest.mark.parametrize(
    "lines",
    [
        ("[TRT] [E] 4: The timing cache will not be used!",),
        ("[TRT] [W] Detected invalid timing cache, setup a local cache instead",),
        ("[TRT] [I] Local timing cache in use. Profiling results in this builder pass will not",),
        (
            "[TRT] [E] 4: The timing cache will not be used!",
            "[TRT] [I] Local timing cache in use. Profiling results in this builder pass will not",
        ),
    ],
)
def test_a_cache_that_tensorrt_does_not_take_is_counted_once(
    lines: tuple[str, ...],
    heard: Any,  # noqa: ANN401 - as above
) -> None:
    assert heard(BUILDING, *lines)["timing_cache"]["not_taken"] == 1
