from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.sources.finite import check_finite
from enginekeeper.validation.tensor_files import TensorFile


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
        check_finite(TensorFile.open(tmp_path / "s"))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_finite_weights_pass(tmp_path: Path, values: list[float]) -> None:
    save_file({"w": np.array(values, np.float32)}, tmp_path / "s")

    check_finite(TensorFile.open(tmp_path / "s"))


def test_a_bad_weight_beyond_the_first_piece_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.sources.finite._CHUNK", 10)
    save_file({"w": np.append(np.ones(95, np.float32), np.float32(np.nan))}, tmp_path / "s")

    with pytest.raises(InputError, match="not finite"):
        check_finite(TensorFile.open(tmp_path / "s"))


def test_integers_are_not_looked_at(tmp_path: Path) -> None:
    save_file({"ids": np.full(4, -1, np.int64)}, tmp_path / "s")

    check_finite(TensorFile.open(tmp_path / "s"))
