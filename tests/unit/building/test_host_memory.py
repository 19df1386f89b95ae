"""What a build takes of a host's memory: refused where it cannot fit, said where it may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.building.host_memory import (
    HostMemory,
    check_host_memory,
    read_host_memory,
)
from enginekeeper.building.interface import BuildRequest
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.errors import UnavailableError
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.results import StepOutcome

GB = 1_000_000_000


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two ranks of 10 and 12 GB that take no room on the disk."""
    for rank, size in enumerate((10, 12)):
        with (tmp_path / f"rank{rank}.safetensors").open("wb") as file:
            file.truncate(size * GB)
    return tmp_path


def _has(gigabytes: float) -> HostMemory:
    return HostMemory(int(gigabytes * GB), "MemAvailable")


@pytest.mark.parametrize(("available", "tight"), [(24, [True]), (39.9, [True]), (40, [False])])
def test_a_build_that_may_not_fit_is_told(
    available: float, tight: list[bool], checkpoint: Path
) -> None:
    need = check_host_memory(checkpoint, _has(available))

    assert [need.is_tight] == tight


@pytest.mark.parametrize(("available", "workers"), [(24, 1), (79.9, 1), (80, 2), (900, 2)])
def test_ranks_are_built_at_once_as_far_as_the_memory_goes(
    available: float, workers: int, checkpoint: Path
) -> None:
    assert check_host_memory(checkpoint, _has(available)).workers == workers


def test_one_that_cannot_is_refused_with_what_it_takes(checkpoint: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        check_host_memory(checkpoint, _has(23.9))

    assert "23.9 GB" in str(caught.value.actual)
    assert "24.0 GB at the least, 2 x the 12.0 GB" in str(caught.value.expected)


def test_a_real_build_is_not_started_without_the_memory(checkpoint: Path) -> None:
    builder = TensorrtLlmBuilder(
        releases()["tensorrt-llm-1.2.1"], gpu_products()["h100-sxm"], "tensorrt-llm-1.2.1",
        host_memory=lambda: _has(8),
    )  # fmt: skip
    request = BuildRequest(checkpoint, checkpoint / "engine", {"max_batch_size": 1})

    with pytest.raises(UnavailableError, match="not enough memory"):
        builder.build(request, lambda *_: pytest.fail("a step was run"))
    with pytest.raises(pytest.fail.Exception, match="a step was run"):
        replace(builder, host_memory=lambda: _has(80)).build(
            request, lambda *_: pytest.fail("a step was run")
        )


@pytest.mark.parametrize(("memory", "workers"), [(_has(900), 2), (None, 1)], ids=str)
def test_a_build_asks_for_as_many_workers_as_the_host_is_known_to_bear(
    memory: HostMemory | None, workers: int, checkpoint: Path
) -> None:
    builder = TensorrtLlmBuilder(
        releases()["tensorrt-llm-1.2.1"], gpu_products()["h100-sxm"], "tensorrt-llm-1.2.1",
        host_memory=None if memory is None else lambda: memory,
    )  # fmt: skip
    request = BuildRequest(checkpoint, checkpoint / "engine", {"max_batch_size": 1})
    asked: list[int] = []

    def run(_toolchain: str, _step: str, job: Mapping[str, Any]) -> StepOutcome:
        asked.append(job["workers"])
        raise UnavailableError("no GPU here")

    with pytest.raises(UnavailableError, match="no GPU here"):
        builder.build(request, run)
    assert asked == [workers]


def _host(root: Path, *, available: int, group: str | None = None) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available} kB\n")
    if group is not None:
        (root / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n0::{group}\n")
    return root


def _limit(root: Path, group: str, limit: str, used: int = 0, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / group.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")


def test_without_a_limit_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    root = _host(tmp_path, available=2048, group="/a/b")
    _limit(root, "/a/b", "max")

    assert read_host_memory(root) == HostMemory(2048 * 1024, "MemAvailable")


def test_the_tightest_limit_above_this_process_counts(tmp_path: Path) -> None:
    root = _host(tmp_path, available=1024, group="/a/b")
    _limit(root, "/a/b", "max")
    _limit(root, "/a", "500000", used=200_000, cache=50_000)

    assert read_host_memory(root) == HostMemory(350_000, "memory.max of sys/fs/cgroup/a")


def test_a_limit_above_what_is_available_gives_nothing_more(tmp_path: Path) -> None:
    root = _host(tmp_path, available=1, group="/a")
    _limit(root, "/a", str(10 * GB))

    assert read_host_memory(root).available == 1024


def test_this_machine_says_how_much_it_has() -> None:
    assert read_host_memory().available > 0


@given(text=st.text())
def test_what_the_kernel_does_not_say_is_no_guess(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("host")
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(text, encoding="utf-8", errors="replace")

    with pytest.raises(UnavailableError, match="does not say"):
        read_host_memory(root)
