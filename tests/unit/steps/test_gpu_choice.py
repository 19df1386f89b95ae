"""Which GPUs a step uses: those of the kind that its engine is for, by their UUIDs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enginekeeper.orchestration import launching
from tests.factories.step_modules import step_module

H100 = {"product": "NVIDIA H100", "compute_capability": "9.0"}
ROWS = """\
0, GPU-a, NVIDIA L4, 8.9
1, GPU-b, NVIDIA H100, 9.0
2, GPU-c, NVIDIA H100, 9.0
"""


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose nvidia-smi names three GPUs."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\ncat <<'END'\n{ROWS}END\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("ranks", "seen"), [(1, "GPU-b"), (2, "GPU-b,GPU-c")])
def test_a_process_sees_as_many_gpus_of_the_kind_as_it_has_ranks(
    ranks: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")

    step_module("_trtllm").use_devices({"gpu": H100, "ranks": ranks})

    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_fewer_than_its_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    module, refusal = step_module("_trtllm"), step_module("_step").Refusal

    with pytest.raises(refusal, match="there are not 2 GPUs"):
        module.use_devices({"gpu": H100, "ranks": 2})


def test_a_job_of_the_double_names_no_gpu() -> None:
    step_module("_trtllm").use_devices({})

    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("most", "visible", "chosen"),
    [
        (1, "0,1,2", ["GPU-b"]),
        (2, "0,1,2", ["GPU-b", "GPU-c"]),
        (8, "GPU-c,GPU-b", ["GPU-b", "GPU-c"]),
        (2, "0,2", ["GPU-c"]),
        (2, None, ["GPU-b"]),
    ],
    ids=str,
)
def test_a_build_takes_more_gpus_than_one_only_where_they_were_given_to_it(
    most: int, visible: str | None, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    devices = step_module("_trtllm").find_devices_to_share(H100, most)

    assert [one["uuid"] for one in devices] == chosen


def test_without_one_of_the_kind_among_those_given_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    module, refusal = step_module("_trtllm"), step_module("_step").Refusal

    with pytest.raises(refusal, match="there is no GPU of the kind"):
        module.find_devices_to_share(H100, 2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("GPU-8f", "GPU-8f3a"), ("GPU-8", "GPU-8"), ("GPU-8f3a", "GPU-8f3a"), ("1", "1"), ("", "")],
)
def test_the_beginning_of_a_uuid_names_a_gpu_if_it_is_of_one_alone(name: str, meant: str) -> None:
    uuids = ["GPU-8f3a", "GPU-81c0"]

    assert step_module("_trtllm")._whole_name(name, [{"uuid": one} for one in uuids]) == meant
    assert launching._whole_name(name, uuids) == meant
