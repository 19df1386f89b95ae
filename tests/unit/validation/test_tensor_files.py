"""Safetensors files: whole ones are read as the reference reads them, broken ones are refused."""

from __future__ import annotations

import gc
import json
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from enginekeeper.validation.tensor_files import (
    MalformedTensorsError,
    PlannedTensor,
    TensorFile,
    write_tensors,
)


def write_raw(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(start: int, stop: int, shape: list[int], dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"),
        st.sampled_from([np.float32, np.int8, np.uint8, np.int64]).flatmap(
            lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
        ),
        max_size=4,
    )
)
def test_what_is_written_is_what_the_reference_reads(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("files") / "x.safetensors"
    write_tensors(path, [PlannedTensor.of(name, array) for name, array in tensors.items()])
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    ours = TensorFile.open(path)
    for name, array in tensors.items():
        assert loaded[name].tobytes() == array.tobytes() == ours[name].read().tobytes()
        assert ours[name].shape == array.shape


def test_what_the_reference_writes_is_read(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.float32).reshape(4, 3).astype(ml_dtypes.bfloat16)
    save_file({"a": stored}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    tensor = TensorFile.open(tmp_path / "x.safetensors")["a"]
    assert tensor.dtype == "BF16"
    assert np.array_equal(tensor.rows(1, 3).astype(np.float32), stored[1:3].astype(np.float32))


def test_a_file_of_many_tensors_needs_few_descriptors(tmp_path: Path) -> None:
    names = [f"layers.{one}" for one in range(200)]
    values = np.zeros((2, 2), np.float32)
    write_tensors(tmp_path / "x", [PlannedTensor.of(name, values) for name in names])
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = TensorFile.open(tmp_path / "x")
    held = [file[name].read() for name in names]
    assert len(held) == len(names)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_file_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    read = []
    for value in (1, 2):
        write_tensors(tmp_path / "new", [PlannedTensor.of("a", np.full(4, value, np.float32))])
        (tmp_path / "new").replace(path)
        read.append(TensorFile.open(path)["a"].read())
    assert [one[0] for one in read] == [1, 2]


@pytest.mark.parametrize("left", [None, 0, 100])
def test_a_file_that_ends_earlier_than_when_it_was_opened_is_refused(
    tmp_path: Path, left: int | None
) -> None:
    path = tmp_path / "x"
    write_tensors(path, [PlannedTensor.of("a", np.zeros((100, 100), np.float32))])
    tensor = TensorFile.open(path)["a"]
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    with pytest.raises(MalformedTensorsError, match=r"cut short|cannot be read"):
        tensor.read()


def test_a_tensor_may_come_in_pieces(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32).reshape(5, 4)
    pieces = (values[start : start + 2] for start in range(0, 5, 2))
    write_tensors(tmp_path / "x", [PlannedTensor("a", "F32", (5, 4), pieces)])
    assert np.array_equal(TensorFile.open(tmp_path / "x")["a"].read(), values)


def test_pieces_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedTensorsError, match="add up"):
        write_tensors(tmp_path / "x", [PlannedTensor("a", "F32", (2,), [np.zeros(1)])])


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"a": entry(0, 4, [4])}, b"abc", "cut short"),
        ({"a": entry(0, 4, [5])}, b"abcd", "do not fit its shape"),
        ({"a": entry(4, 0, [4])}, b"abcd", "do not fit its shape"),
        ({"a": entry(-4, 0, [4])}, b"abcd", "not a shape"),
        ({"a": entry(0, 4, [-2, -2])}, b"abcd", "not a shape"),
        ({"a": {**entry(0, 4, [4]), "shape": [True, 4]}}, b"abcd", "not a shape"),
        ({"a": entry(0, 4, [4]), "b": entry(2, 6, [4])}, b"abcdef", "overlap"),
        ({"a": entry(0, 4, [4]), "b": entry(5, 9, [4])}, b"abcdefghi", "leave a hole"),
        ({"a": entry(0, 4, [4])}, b"abcde", "bytes follow the last tensor"),
        ({"a": entry(0, 4, [4], "F13")}, b"abcd", "unknown number format"),
        ({"a": {"dtype": "U8"}}, b"", "not a tensor's entry"),
        ({"a": {"dtype": ["U8"], "shape": [1], "data_offsets": [0, 1]}}, b"a", "number format"),
        ([], b"", "not a JSON object"),
        (b"{", b"", "not JSON"),
        (b"\xff\xff", b"", "not JSON"),
        (b"[" * 100_000, b"", "nested too deeply"),
        (b'{"a": 1, "a": 2}', b"", "there twice"),
    ],
)
def test_a_broken_file_is_refused(header: object, data: bytes, words: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", header, data)
    with pytest.raises(MalformedTensorsError, match=words):
        TensorFile.open(path)


@pytest.mark.parametrize("content", [b"", b"\x01\x02", struct.pack("<Q", 1 << 62), b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MalformedTensorsError):
        TensorFile.open(tmp_path / "x")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedTensorsError, match="cannot be read"):
        TensorFile.open(tmp_path / "missing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kept: float) -> None:
    save_file({"a": np.arange(6, dtype=np.float32)}, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(MalformedTensorsError, match="cut short"):
        TensorFile.open(tmp_path / "cut")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    path.write_bytes(struct.pack("<Q", max(len(content) - 8, 0)) + content)
    try:
        TensorFile.open(path)
    except MalformedTensorsError:
        return


def test_rows_asked_for_one_after_the_other_come_from_one_map_of_the_file(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.int8).reshape(4, 3)
    write_tensors(tmp_path / "x.safetensors", [PlannedTensor.of("a", values)])
    tensor = TensorFile.open(tmp_path / "x.safetensors")["a"]
    assert np.shares_memory(tensor.rows(0, 2), tensor.read())
    assert tensor.rows(2, 4).tolist() == [[6, 7, 8], [9, 10, 11]]
    assert not tensor.read().flags.writeable
