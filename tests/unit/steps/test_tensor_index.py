"""A weights file is believed only when all of its bytes are there."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.factories.step_modules import step_module

Refusal = step_module("_step").Refusal
read_index = step_module("_tensor_index").read_index


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "rank0.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.int8)}, path)
    return path


def _kind(path: Path) -> str:
    with pytest.raises(Refusal) as refused:
        read_index(path)
    return str(refused.value.kind)


def test_names_types_and_shapes_are_read(weights: Path) -> None:
    index = {name: str(entry) for name, entry in read_index(weights).items()}

    assert index == {"a": "F32[2,3]", "b": "I8[5]"}


@pytest.mark.parametrize("missing", [1, 4, 29])
def test_a_file_cut_short_is_refused(weights: Path, missing: int) -> None:
    weights.write_bytes(weights.read_bytes()[:-missing])

    assert _kind(weights) == "weights-cut-short"


def test_a_file_with_bytes_too_many_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"x")

    assert _kind(weights) == "weights-cut-short"


def test_a_header_longer_than_the_file_is_refused(weights: Path) -> None:
    weights.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")

    assert _kind(weights) == "weights-cut-short"


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"1234")

    assert _kind(path) == "weights-unreadable"


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    assert _kind(tmp_path / "rank0.safetensors") == "not-a-checkpoint"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(struct.pack("<Q", max(0, len(content) - 3)) + content)
    with contextlib.suppress(Refusal):
        read_index(path)
