"""Weights that are the right numbers in another order, as faults another author thought of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import pack_int4_rows, unpack_int4_rows
from tests.factories import checkpoints
from tests.factories.checkpoints import Array, Edit

DOWN, DENSE, FC, QKV = (
    f"transformer.layers.1.{name}"
    for name in ("mlp.proj", "attention.dense", "mlp.fc", "attention.qkv")
)
KEYS = slice(64, 96)
"""Rows of k in q|k|v: two heads of 16."""

RECIPES = ("none", "w8a16", "fp8", "w8a8_sq")


def first_finding(checkpoint: Path) -> Finding:
    reports = audit(checkpoints.SOURCE, checkpoint)
    finding = next(finding for report in reports for finding in report.findings)
    assert finding.result == "fail"
    return finding


def damaged(recipe: str, linear: str, edit: Edit, tmp_path: Path) -> Finding:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{linear}.weight", edit)
    return first_finding(checkpoint)


@pytest.mark.parametrize("recipe", RECIPES)
def test_columns_in_another_order_are_recognised(recipe: str, tmp_path: Path) -> None:
    finding = damaged(recipe, FC, lambda w: np.ascontiguousarray(w[:, ::-1]), tmp_path)
    assert (finding.where, finding.taxonomy) == (FC, "T5")
    assert finding.message == (
        "columns of the input are in another order: column 0 holds column 63"
    )


@pytest.mark.parametrize("recipe", ["none", "fp8"])  # the others' scales are their rows'
def test_rows_in_another_order_are_recognised(recipe: str, tmp_path: Path) -> None:
    def interleave(weight: Array) -> Array:
        eights = weight.reshape(-1, 8, weight.shape[1])[:, [0, 2, 4, 6, 1, 3, 5, 7]]
        return np.ascontiguousarray(eights).reshape(weight.shape)

    finding = damaged(recipe, FC, interleave, tmp_path)
    assert finding.taxonomy == "T5"
    assert finding.message == "the rows are in another order: row 1 holds row 2"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_transposed_matrix_is_recognised(recipe: str, tmp_path: Path) -> None:
    finding = damaged(recipe, DENSE, lambda w: np.ascontiguousarray(w.T), tmp_path)
    assert (finding.where, finding.taxonomy) == (DENSE, "T5")
    assert "transposed" in finding.message


@pytest.mark.parametrize("turn", [lambda order: order, np.argsort])
def test_heads_laid_out_for_another_rotation_are_recognised(
    turn: Callable[[Array], Array], tmp_path: Path
) -> None:
    order = turn(np.arange(16).reshape(2, 8).T.reshape(-1))

    def other_layout(weight: Array) -> None:
        weight[KEYS] = weight[KEYS].reshape(2, 16, -1)[:, order].reshape(32, -1)

    finding = damaged("none", QKV, other_layout, tmp_path)
    assert (finding.where, finding.taxonomy) == (f"{QKV} (k)", "T15")
    assert "another kind of rotation" in finding.message


def test_exchanged_nibbles_of_fp4_are_recognised(tmp_path: Path) -> None:
    finding = damaged("nvfp4", DOWN, lambda packed: (packed << 4) | (packed >> 4), tmp_path)
    assert (finding.where, finding.taxonomy) == (DOWN, "T5")
    assert "nibbles" in finding.message


@pytest.mark.parametrize("recipe", ["w4a16", "w4a16_awq"])
def test_integers_packed_along_the_other_axis_are_recognised(recipe: str, tmp_path: Path) -> None:
    def along_inputs(packed: Array) -> Array:
        rows = unpack_int4_rows(packed).reshape(len(packed), -1, 2)
        read = np.stack([rows[..., 0], rows[..., 1]], axis=1).reshape(-1, packed.shape[1])
        return pack_int4_rows(np.ascontiguousarray(read))

    finding = damaged(recipe, DOWN, along_inputs, tmp_path)
    assert finding.taxonomy == "T5"
    assert finding.message == "pairs of inputs are packed where pairs of outputs are read"


@pytest.mark.parametrize("recipe", ["w8a16", "fp8"])  # a vector is not found again from these
def test_the_same_codes_all_over_the_place_are_recognised(recipe: str, tmp_path: Path) -> None:
    def scatter(weight: Array) -> Array:
        order = np.random.default_rng(1).permutation(weight.size)
        return weight.reshape(-1)[order].reshape(weight.shape)

    finding = damaged(recipe, DOWN, scatter, tmp_path)
    assert finding.taxonomy == "T5"
    assert finding.message == "the codes are the right ones, in another order"


def test_weights_of_nowhere_are_in_no_order(tmp_path: Path) -> None:
    def invent(weight: Array) -> Array:
        invented = np.random.default_rng(1).standard_normal(weight.shape)
        return np.asarray(invented * weight.astype(np.float32).std())

    assert damaged("none", DOWN, invent, tmp_path).taxonomy == "T25"


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16", "nvfp4", "fp8"])
def test_two_exchanged_columns_are_no_scale(recipe: str, tmp_path: Path) -> None:
    def exchange(weight: Array) -> Array | None:
        if recipe == "nvfp4":
            weight[:, 0] = (weight[:, 0] << 4) | (weight[:, 0] >> 4)
        else:
            weight[:, [0, 1]] = weight[:, [1, 0]]
        return None

    assert damaged(recipe, FC, exchange, tmp_path).taxonomy == "T5"


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16", "w8a8_sq"])
def test_unsigned_integers_read_as_signed_are_recognised(recipe: str, tmp_path: Path) -> None:
    bits = 0x88 if recipe == "w4a16" else 0x80
    finding = damaged(
        recipe, DOWN, lambda w: (w.view(np.uint8) ^ np.uint8(bits)).view(np.int8), tmp_path
    )
    assert finding.taxonomy == "T4"
    assert "unsigned ones are read as signed" in finding.message


def test_a_zero_point_in_some_columns_is_recognised(tmp_path: Path) -> None:
    def shift(weight: Array) -> None:
        weight[:, 64:128] = np.clip(weight[:, 64:128].astype(np.int16) + 1, -127, 127)

    finding = damaged("w8a16", DOWN, shift, tmp_path)
    assert (finding.taxonomy, finding.actual) == ("T4", 1.0)
