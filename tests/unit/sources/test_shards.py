from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.sources.shards import check_finite, read_shard

_WHOLE: dict[str, NDArray[Any]] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros((0, 4), np.float16),
}


def _shard(header: object, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def _entry(begin: int, end: int, dtype: str = "F32", **changed: object) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changed}


def test_a_whole_shard_is_read_as_the_library_wrote_it(tmp_path: Path) -> None:
    save_file(_WHOLE, tmp_path / "s", metadata={"format": "pt"})

    tensors = read_shard(tmp_path / "s")

    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (0, 4)}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.*missing"):
        read_shard(tmp_path / "gone")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_shard_cut_anywhere_is_refused(tmp_path: Path, kept: float) -> None:
    save_file(_WHOLE, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(InputError, match="cut"):
        read_shard(tmp_path / "cut")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_bytes_of_any_kind_give_an_answer_or_an_input_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s").write_bytes(_shard(data, b""))

    with suppress(InputError):
        read_shard(tmp_path / "s")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ([], "not an object"),
        (b'{"a": 1, "a": 2}', "there twice"),
        ({"a": 1}, "not a tensor's entry"),
        ({"a": _entry(0, 8, dtype="F3")}, "unknown number format"),
        ({"a": _entry(0, 8, shape=[3])}, "do not fit its shape"),
        ({"a": _entry(0, 8, shape=[-2])}, "not a shape"),
        ({"a": _entry(0, 8, shape=[True, 2])}, "not a shape"),
        ({"a": _entry(0, 8), "b": _entry(4, 12)}, "overlap"),
        ({"a": _entry(0, 4), "b": _entry(8, 12)}, "hole"),
        ({"a": _entry(0, 4)}, "bytes follow"),
        ({"a": _entry(0, 1 << 40)}, "cut short"),
    ],
)
def test_a_header_that_disagrees_with_the_file_is_refused(
    tmp_path: Path, header: object, complaint: str
) -> None:
    (tmp_path / "s").write_bytes(_shard(header, bytes(12)))

    with pytest.raises(InputError, match=complaint):
        read_shard(tmp_path / "s")


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
     ml_dtypes.float8_e5m2],
)  # fmt: skip
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_weight_among_good_ones_is_found(
    tmp_path: Path, dtype: DTypeLike, bad: float
) -> None:
    values = np.linspace(-400, 400, 1001).astype(dtype)
    save_file({"good": values, "w": np.append(values, np.array(bad).astype(dtype))}, tmp_path / "s")

    with pytest.raises(InputError, match="1 of 1002 weights of w"):
        check_finite(tmp_path / "s", read_shard(tmp_path / "s"))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_finite_weights_pass(tmp_path: Path, values: list[float]) -> None:
    save_file({"w": np.array(values, np.float32)}, tmp_path / "s")

    check_finite(tmp_path / "s", read_shard(tmp_path / "s"))


def test_a_bad_weight_beyond_the_first_piece_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.sources.shards._CHUNK", 10)
    save_file({"w": np.append(np.ones(95, np.float32), np.float32(np.nan))}, tmp_path / "s")

    with pytest.raises(InputError, match="not finite"):
        check_finite(tmp_path / "s", read_shard(tmp_path / "s"))


def test_integers_are_not_looked_at(tmp_path: Path) -> None:
    save_file({"ids": np.full(4, -1, np.int64)}, tmp_path / "s")

    check_finite(tmp_path / "s", read_shard(tmp_path / "s"))
