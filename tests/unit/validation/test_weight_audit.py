"""The weight audit on real ModelOpt exports of a tiny model: healthy, and with each fault."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.numerics.formats import narrow, pack_int4_rows, unpack_int4_rows
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints
from tests.factories.checkpoints import Array, Edit

LAYER = "transformer.layers.1"
DOWN = f"{LAYER}.mlp.proj"
QKV = f"{LAYER}.attention.qkv"
QUANTIZED = tuple(name for name in checkpoints.RECIPES if name != "none" and "tp2" not in name)
EXACT = ("none", "w8a16", "fp8", "fp8_per_channel_per_token", "w4a16", "w8a8_sq", "nvfp4")


def audited(checkpoint: Path) -> AuditReport:
    return audit_weights(SourceModel.open(checkpoints.SOURCE), Checkpoint.open(checkpoint))


def only_finding(checkpoint: Path) -> Finding:
    (finding,) = audited(checkpoint).findings
    assert finding.result == "fail"
    return finding


def scale_name(recipe: str, linear: str) -> str:
    per_channel = recipe == "fp8_per_channel_per_token"
    return f"{linear}.{'per_channel_scale' if per_channel else 'weights_scaling_factor'}"


def multiply(factor: float) -> Edit:
    def edit(values: Array) -> Array:
        return values.astype(np.float32) * np.float32(factor)

    return edit


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_a_healthy_export_has_no_findings(recipe: str, tmp_path: Path) -> None:
    report = audited(checkpoints.exported(recipe, tmp_path))
    assert report.findings == ()
    assert report.examined["tensor_parts"] == 16


@pytest.mark.parametrize("recipe", EXACT)
def test_every_recipe_but_awq_is_reproduced_bit_for_bit(recipe: str, tmp_path: Path) -> None:
    examined = audited(checkpoints.exported(recipe, tmp_path)).examined
    assert examined["reproduced_bit_for_bit"] == examined["tensor_parts"]


@pytest.mark.parametrize("recipe", QUANTIZED)
@pytest.mark.parametrize("factor", [0.9, 1.01, 1.03, 2.0])
def test_one_scale_multiplied_is_named(recipe: str, factor: float, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    name = scale_name(recipe, DOWN)
    if recipe == "nvfp4":
        name = f"{DOWN}.weights_scaling_factor_2"
    checkpoints.edit_tensor(checkpoint, name, multiply(factor))
    finding = only_finding(checkpoint)
    assert finding.where == DOWN
    assert finding.taxonomy in ("T1", "T6", "T12")
    assert "times what it should be" in finding.message


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16", "fp8", "w8a8_sq"])
def test_scales_rounded_to_half_precision_are_honest(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    for layer in (0, 1):
        for linear in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
            name = f"transformer.layers.{layer}.{linear}.weights_scaling_factor"
            checkpoints.edit_tensor(
                checkpoint, name, lambda s: narrow(s, "bfloat16").astype(np.float32)
            )
    assert audited(checkpoint).findings == ()


def clipped(groups: Array) -> tuple[Array, Array]:
    """Chooses each group's scale for the smallest squared error, as AWQ's clipping does."""
    best = nearest(groups, 7.0)
    for divisor in np.linspace(7.2, 11, 20):
        codes, scales = nearest(groups, float(divisor))
        better = _squared_error(groups, codes, scales) < _squared_error(groups, *best)
        best = (
            np.where(better[..., None], codes, best[0]),
            np.where(better, scales, best[1]),
        )
    return best


def _squared_error(groups: Array, codes: Array, scales: Array) -> Array:
    error: Array = ((codes * scales[..., None] - groups) ** 2).sum(axis=2)
    return error


def nearest(groups: Array, divisor: float = 7.5) -> tuple[Array, Array]:
    """Spreads the range over -7.5 to 7.5 instead of -7 to 7."""
    scales = np.abs(groups).max(axis=2) / divisor
    return np.clip(np.rint(groups / scales[..., None]), -8, 7), scales


def diffused(groups: Array) -> tuple[Array, Array]:
    """Carries half of each rounding error to the next column, as GPTQ does with its Hessian."""
    scales = np.abs(groups).max(axis=2) / 7
    codes, carried = np.zeros_like(groups), np.zeros_like(scales)
    for column in range(groups.shape[2]):
        wanted = groups[..., column] + carried / 2
        codes[..., column] = np.clip(np.rint(wanted / scales), -8, 7)
        carried = wanted - codes[..., column] * scales
    return codes, scales


@pytest.mark.parametrize("rounding", [clipped, nearest, diffused])
def test_another_valid_rounding_is_honest(
    rounding: Callable[[Array], tuple[Array, Array]], tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    source = SourceModel.open(checkpoints.SOURCE)

    def requantize(arrays: dict[str, Array]) -> None:
        for layer in (0, 1):
            for place in layer_linears(layer, Geometry.of(source.config)):
                rows = [source.rows(f"{part.module}.weight") for part in place.parts]
                weight = np.concatenate(rows)
                codes, scales = rounding(weight.reshape(len(weight), -1, 32))
                packed = pack_int4_rows(codes.reshape(weight.shape).astype(np.int8))
                arrays[f"{place.name}.weight"] = packed
                arrays[f"{place.name}.weights_scaling_factor"] = scales.astype(np.float32)

    checkpoints.edit_tensors(checkpoint, requantize)
    report = audited(checkpoint)
    assert report.findings == ()
    assert report.examined["lowest_share_of_equal_codes"] < 0.95


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("recipe", QUANTIZED)
def test_a_scale_that_is_no_scale_is_found(recipe: str, bad: float, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    suffix = "_2" if recipe == "nvfp4" else ""

    def spoil(scales: Array) -> None:
        scales.reshape(-1)[0] = bad

    checkpoints.edit_tensor(checkpoint, scale_name(recipe, QKV) + suffix, spoil)
    finding = only_finding(checkpoint)
    assert finding.taxonomy == "T2"
    assert QKV in finding.where


def first_is_nan(array: Array) -> None:
    array.reshape(-1)[3] = np.nan


@pytest.mark.parametrize("recipe", ["fp8", "fp8_per_channel_per_token", "none"])
@pytest.mark.parametrize("linear", ["attention.qkv", "mlp.proj"])
def test_a_weight_that_is_no_number_is_found(recipe: str, linear: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{LAYER}.{linear}.weight", first_is_nan)
    finding = only_finding(checkpoint)
    assert (finding.check, finding.result, finding.taxonomy) == ("weights.finite", "fail", "T20")
    assert finding.where.startswith(f"{LAYER}.{linear}.weight")
    assert finding.actual == 1


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
@pytest.mark.parametrize(
    "vector",
    [f"{LAYER}.input_layernorm.weight", f"{LAYER}.post_layernorm.weight",
     "transformer.ln_f.weight", "transformer.vocab_embedding.weight", "lm_head.weight"],
)  # fmt: skip
def test_nothing_that_is_no_number_passes(recipe: str, vector: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    checkpoints.edit_tensor(checkpoint, vector, first_is_nan)
    report = audited(checkpoint)
    assert report.result == "fail"
    assert any(finding.where.startswith(vector.removesuffix(".weight")) for finding in
               report.findings)  # fmt: skip


@pytest.mark.parametrize("recipe", ["w8a8_sq", "w4a16_awq"])
def test_a_wrong_pre_quant_vector_is_found(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def spoil(vector: Array) -> Array:
        changed = vector.astype(np.float32)
        changed[7] *= 1.2
        return changed

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.prequant_scaling_factor", spoil)
    finding = only_finding(checkpoint)
    assert finding.where == DOWN
    assert finding.taxonomy == "T9"
    assert "column 7" in finding.message


def test_a_transposed_scale_matrix_is_a_layout_fault(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    checkpoints.edit_tensor(
        checkpoint,
        f"{DOWN}.weights_scaling_factor",
        lambda s: np.ascontiguousarray(s.reshape(s.shape[::-1]).T),
    )
    finding = only_finding(checkpoint)
    assert finding.taxonomy == "T3"
    assert "wrong order" in finding.message


@pytest.mark.parametrize("recipe", ["w4a16", "w4a16_awq", "w4a8_awq"])
def test_one_group_with_a_doubled_scale_is_located(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def double(scales: Array) -> None:
        scales[10, 3] *= 2

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weights_scaling_factor", double)
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (DOWN, "T3")
    assert "row 10, input group 3 of 32 columns" in finding.message


def test_reciprocal_scales_are_recognised(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weights_scaling_factor", lambda s: 1 / s)
    finding = only_finding(checkpoint)
    assert finding.taxonomy == "T2"
    assert "reciprocal" in finding.message


def test_power_of_two_scales_are_recognised(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensor(
        checkpoint, f"{DOWN}.weights_scaling_factor", lambda s: 2 ** np.ceil(np.log2(s))
    )
    assert only_finding(checkpoint).taxonomy == "T7"


@pytest.mark.parametrize("recipe", ["w8a16", "fp8", "w4a16", "w8a8_sq", "w4a16_awq", "none"])
def test_a_truncated_tail_is_found(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def cut(weight: Array) -> None:
        weight.reshape(-1).view(np.uint8)[-256:] = 0

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weight", cut)
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (DOWN, "T25")
    assert "truncated shard" in finding.message


def swap_heads(weight: Array) -> None:
    """Exchanges value heads 0 and 1: rows 96 to 111 and 112 to 127 of q|k|v."""
    weight[96:112], weight[112:128] = weight[112:128].copy(), weight[96:112].copy()


@pytest.mark.parametrize("recipe", ["none", "w8a16", "fp8", "w8a8_sq"])
def test_swapped_value_heads_are_named(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{QKV}.weight", swap_heads)
    finding = only_finding(checkpoint)
    assert finding.where == f"{QKV} (v)"
    assert finding.taxonomy == "T14"
    assert "head 0 holds head 1" in finding.message


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_a_copied_layer_is_named(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def copy(arrays: dict[str, Array]) -> None:
        for name in list(arrays):
            if name.startswith("transformer.layers.0."):
                arrays[name.replace("layers.0", "layers.1")] = arrays[name]

    for rank in range(2 if recipe.endswith("tp2") else 1):
        checkpoints.edit_tensors(checkpoint, copy, rank)
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (LAYER, "T26")
    assert finding.message == "the layer holds the weights of transformer.layers.0"


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shifted_zero_point_is_recognised(shift: int, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)

    def move(packed: Array) -> Array:
        return pack_int4_rows(np.clip(unpack_int4_rows(packed) + shift, -8, 7).astype(np.int8))

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weight", move)
    finding = only_finding(checkpoint)
    assert (finding.taxonomy, finding.actual) == ("T4", shift)


def test_exchanged_nibbles_are_recognised(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)

    def exchange(packed: Array) -> Array:
        rows = unpack_int4_rows(packed).reshape(-1, 2, packed.shape[1])[:, ::-1]
        return pack_int4_rows(np.ascontiguousarray(rows).reshape(-1, packed.shape[1]))

    checkpoints.edit_tensor(checkpoint, f"{DOWN}.weight", exchange)
    assert only_finding(checkpoint).taxonomy == "T5"


def zero_row(weight: Array) -> None:
    weight[17] = 0


def swap_rows(weight: Array) -> None:
    weight[[17, 40]] = weight[[40, 17]]


@pytest.mark.parametrize("table", ["transformer.vocab_embedding", "lm_head"])
@pytest.mark.parametrize(
    ("damage", "words"), [(zero_row, "row 17"), (swap_rows, "row 17 holds row 40")]
)
def test_one_damaged_row_of_a_table_is_named(
    table: str, damage: Callable[[Array], None], words: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("fp8", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{table}.weight", damage)
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (table, "T25")
    assert words in finding.message


def test_a_scaled_norm_is_blamed_and_not_what_follows(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{LAYER}.post_layernorm.weight", multiply(1.02))
    finding = only_finding(checkpoint)
    assert finding.where == f"{LAYER}.post_layernorm.weight"
    assert finding.taxonomy == "T9"


def test_a_norm_that_what_follows_takes_back_is_honest(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensor(checkpoint, f"{LAYER}.post_layernorm.weight", multiply(2))
    for linear in ("fc", "gate"):
        name = f"{LAYER}.mlp.{linear}.weights_scaling_factor"
        checkpoints.edit_tensor(checkpoint, name, multiply(0.5))
    report = audited(checkpoint)
    assert report.findings == ()
    assert report.examined["folded_norms"] == [f"{LAYER}.mlp.fc", f"{LAYER}.mlp.gate"]


def test_a_weight_in_another_format_than_announced_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_quantization(checkpoint, exclude_modules=["lm_head", DOWN])
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (f"{DOWN}.weight", "T8")


def test_linears_of_an_unknown_algorithm_are_doubt_and_not_a_pass(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_quantization(checkpoint, quant_algo="W3A5")
    (finding,) = audited(checkpoint).findings
    assert finding.result == "inconclusive"
    assert finding.message.startswith("10 linears were not compared")


@pytest.mark.parametrize(
    "name",
    [f"{DOWN}.weight", f"{DOWN}.weights_scaling_factor", f"{LAYER}.input_layernorm.weight"],
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.pop(name))
    assert only_finding(checkpoint).where == name


@pytest.mark.parametrize("suffix", ["activation_scaling_factor", "prequant_scaling_factor"])
def test_a_missing_learned_scale_is_named(suffix: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    checkpoints.edit_tensors(checkpoint, lambda arrays: arrays.pop(f"{DOWN}.{suffix}"))
    assert only_finding(checkpoint).where == f"{DOWN}.{suffix}"


def test_a_tensor_nobody_asked_for_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)

    def invent(arrays: dict[str, Array]) -> None:
        arrays[f"{LAYER}.attention.rotary"] = arrays[f"{LAYER}.input_layernorm.weight"]

    checkpoints.edit_tensors(checkpoint, invent)
    assert only_finding(checkpoint).check == "weights.census"


def test_an_invented_bias_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)

    def invent(arrays: dict[str, Array]) -> None:
        arrays[f"{DOWN}.bias"] = arrays[f"{LAYER}.input_layernorm.weight"]

    checkpoints.edit_tensors(checkpoint, invent)
    assert only_finding(checkpoint).where == f"{DOWN}.bias"


def test_gate_and_up_exchanged_are_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)

    def exchange(arrays: dict[str, Array]) -> None:
        for suffix in ("weight", "weights_scaling_factor"):
            fc, gate = f"{LAYER}.mlp.fc.{suffix}", f"{LAYER}.mlp.gate.{suffix}"
            arrays[fc], arrays[gate] = arrays[gate], arrays[fc]

    checkpoints.edit_tensors(checkpoint, exchange)
    findings = audited(checkpoint).findings
    assert [f.message for f in findings] == [
        f"the weight is that of {LAYER}.mlp.gate",
        f"the weight is that of {LAYER}.mlp.fc",
    ]


def test_a_rank_with_groups_of_another_size_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16_awq_tp2", tmp_path)
    name = f"{QKV}.weights_scaling_factor"
    checkpoints.edit_tensors(
        checkpoint, lambda tensors: tensors.update({name: tensors[name][:, :1]}), rank=1
    )
    assert name in [finding.where for finding in audited(checkpoint).findings]


@pytest.mark.parametrize("key", ["k", "v"])
def test_a_missing_cache_scale_is_found(key: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    prefix = f"{LAYER}.attention"

    def remove(arrays: dict[str, Array]) -> None:
        del arrays[f"{prefix}.{key}_cache_scaling_factor"]
        del arrays[f"{prefix}.kv_cache_scaling_factor"]

    checkpoints.edit_tensors(checkpoint, remove)
    finding = only_finding(checkpoint)
    assert (finding.where, finding.taxonomy) == (f"{prefix}.{key}_cache_scaling_factor", "T10")


def test_what_the_shared_step_of_a_cache_costs_most_is_told(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    for key, step in (("k", 0.5), ("v", 0.03125), ("kv", 0.5)):
        name = f"{LAYER}.attention.{key}_cache_scaling_factor"
        checkpoints.edit_tensor(checkpoint, name, partial(np.full_like, fill_value=step))
    cache = audited(checkpoint).examined["kv_cache"]
    assert cache["coarsest"] == {"layer": 1, "of": "v", "times": 16.0}


def test_a_merged_cache_scale_that_is_not_the_larger_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a8_sq", tmp_path)
    name = f"{LAYER}.attention.kv_cache_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, multiply(0.5))
    assert only_finding(checkpoint).where == name


@pytest.mark.parametrize("recipe", ["w4a16_awq_tp2", "w8a8_sq_tp2"])
@pytest.mark.parametrize("linear", [DOWN, QKV])
def test_a_fault_on_one_rank_is_found(recipe: str, linear: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def cut(weight: Array) -> None:
        weight[-1] = 0

    checkpoints.edit_tensor(checkpoint, f"{linear}.weight", cut, rank=1)
    report = audited(checkpoint)
    assert report.result == "fail"
    assert all(finding.where.startswith(linear) for finding in report.findings)
