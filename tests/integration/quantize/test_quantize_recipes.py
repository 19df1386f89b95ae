"""Every recipe, exported twice by the real ModelOpt: its form, its arithmetic, its digests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.repair import propose_repairs
from enginekeeper.validation.tensor_files import TensorFile
from registry.manifests import Manifest
from tests.factories.tiny_llama import Weights

pytestmark = pytest.mark.toolchain

Array = NDArray[Any]
Quantize = Callable[..., StepOutcome]
ATTENTION = "transformer.layers.0.attention"
MLP = "transformer.layers.0.mlp"

RECIPES = {
    "none": (None, "BF16", ()),
    "fp8": ("FP8", "F8_E4M3", ("weights_scaling_factor", "activation_scaling_factor")),
    "fp8_per_channel_per_token": ("FP8_PER_CHANNEL_PER_TOKEN", "F8_E4M3", ("per_channel_scale",)),
    "w8a16": ("W8A16", "I8", ("weights_scaling_factor",)),
    "w8a8_sq": (
        "W8A8_SQ_PER_CHANNEL",
        "I8",
        ("weights_scaling_factor", "activation_scaling_factor", "prequant_scaling_factor"),
    ),
    "w4a16": ("W4A16_AWQ", "I8", ("weights_scaling_factor",)),
    "w4a16_awq": ("W4A16_AWQ", "I8", ("weights_scaling_factor", "prequant_scaling_factor")),
    "w4a8_awq": (
        "W4A8_AWQ",
        "I8",
        (
            "weights_scaling_factor",
            "weights_scaling_factor_2",
            "activation_scaling_factor",
            "prequant_scaling_factor",
        ),
    ),
    "nvfp4": (
        "NVFP4",
        "U8",
        ("weights_scaling_factor", "weights_scaling_factor_2", "activation_scaling_factor"),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_exports_its_form_and_the_same_bytes_again(
    recipe: str, quantize: Quantize, tmp_path: Path
) -> None:
    outcome = quantize("one", recipe=recipe)
    quantize("two", recipe=recipe)
    algorithm, dtype, scales = RECIPES[recipe]
    assert outcome.outputs["quant_config"]["quant_algo"] == algorithm
    tensors = TensorFile.open(tmp_path / "one" / "rank0.safetensors")
    qkv = {name.removeprefix(f"{ATTENTION}.qkv.") for name in tensors if f"{ATTENTION}.qkv" in name}
    assert qkv == {"weight", *scales}
    assert tensors[f"{ATTENTION}.qkv.weight"].dtype == dtype
    assert tensors["lm_head.weight"].dtype == "BF16"
    digests = {
        str(Manifest.of_directory(tmp_path / n, "checkpoint").digest) for n in ("one", "two")
    }
    assert len(digests) == 1


def test_the_export_is_left_with_its_faults_and_they_are_found(
    quantize: Quantize, config: dict[str, Any], tmp_path: Path
) -> None:
    quantize(recipe="w4a16")
    exported = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert "rotary_base" not in exported
    assert exported["quantization"]["pre_quant_scale"] is True
    rules = [repair.rule for repair in propose_repairs(config, tmp_path / "checkpoint")]
    assert rules == ["rotary-base", "promised-prequant"]


def _read(tmp_path: Path) -> dict[str, Array]:
    return {
        name: tensor.read()
        for name, tensor in TensorFile.open(tmp_path / "checkpoint" / "rank0.safetensors").items()
    }


def _source(weights: Weights, *names: str) -> Array:
    stacked = [weights[f"model.layers.0.{name}.weight"] for name in names]
    return np.concatenate(stacked).astype(np.float32)


def _qkv(weights: Weights) -> Array:
    return _source(weights, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def test_int8_is_rounded_half_to_even_with_one_scale_for_each_row(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="w8a16")
    tensors, values = _read(tmp_path), _qkv(weights)
    scale = np.abs(values).max(axis=1) / np.float32(127)
    expected = np.clip(np.rint(values / scale[:, None]), -128, 127).astype(np.int8)
    assert np.array_equal(tensors[f"{ATTENTION}.qkv.weights_scaling_factor"], scale)
    assert np.array_equal(tensors[f"{ATTENTION}.qkv.weight"], expected)


def test_fp8_has_one_scale_for_everything_that_is_fused(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="fp8")
    tensors = _read(tmp_path)
    gate, up = _source(weights, "mlp.gate_proj"), _source(weights, "mlp.up_proj")
    shared = np.maximum(np.abs(gate).max(), np.abs(up).max()) / np.float32(448)
    for name, values in (("fc", gate), ("gate", up)):
        assert tensors[f"{MLP}.{name}.weights_scaling_factor"] == shared
        expected = (values / shared).astype(ml_dtypes.float8_e4m3fn)
        assert tensors[f"{MLP}.{name}.weight"].tobytes() == expected.tobytes()
    assert tensors[f"{ATTENTION}.qkv.weights_scaling_factor"] == np.abs(_qkv(weights)).max() / 448


def test_row_wise_fp8_has_one_scale_for_each_row(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="fp8_per_channel_per_token")
    tensors, values = _read(tmp_path), _qkv(weights)
    scale = np.abs(values).max(axis=1) / np.float32(448)
    expected = (values / scale[:, None]).astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(tensors[f"{ATTENTION}.qkv.per_channel_scale"], scale)
    assert tensors[f"{ATTENTION}.qkv.weight"].tobytes() == expected.tobytes()


@pytest.mark.parametrize("group", [32, 128])
def test_group_wise_int4_packs_the_even_row_into_the_low_half(
    group: int, quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="w4a16", group_size=group)
    tensors, values = _read(tmp_path), _qkv(weights)
    scale = np.abs(values).reshape(len(values), -1, group).max(axis=2) / np.float32(7)
    rounded = np.rint(values / np.repeat(scale, group, axis=1))
    nibbles = np.clip(rounded, -8, 7).astype(np.int8).view(np.uint8) & 15
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    assert np.array_equal(tensors[f"{ATTENTION}.qkv.weights_scaling_factor"], scale)
    assert tensors[f"{ATTENTION}.qkv.weight"].tobytes() == packed.tobytes()


def test_nvfp4_has_an_fp8_scale_for_sixteen_columns_and_one_above(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="nvfp4")
    tensors, values = _read(tmp_path), _qkv(weights)
    above = np.abs(values).max() / np.float32(6 * 448)
    block = np.abs(values).reshape(len(values), -1, 16).max(axis=2) / (np.float32(6) * above)
    scale = np.clip(block, 2**-9, 448).astype(ml_dtypes.float8_e4m3fn)
    scaled = values / np.repeat(scale.astype(np.float32) * above, 16, axis=1)
    expected = scaled.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    stored = tensors[f"{ATTENTION}.qkv.weight"]
    unpacked = np.stack([stored & 15, stored >> 4], axis=2).reshape(expected.shape)
    assert tensors[f"{ATTENTION}.qkv.weights_scaling_factor_2"] == above
    assert tensors[f"{ATTENTION}.qkv.weights_scaling_factor"].tobytes() == scale.tobytes()
    assert np.array_equal(unpacked, expected)


@pytest.mark.parametrize(("kv_cache", "algorithm"), [("fp8", "FP8"), ("int8", "INT8")])
def test_the_cache_has_scales_and_fp8_ones_are_not_below_one(
    kv_cache: str, algorithm: str, quantize: Quantize, tmp_path: Path
) -> None:
    outcome = quantize(recipe="none", kv_cache=kv_cache)
    assert outcome.outputs["quant_config"]["kv_cache_quant_algo"] == algorithm
    tensors = _read(tmp_path)
    key, value, both = (
        tensors[f"{ATTENTION}.{name}_cache_scaling_factor"].item() for name in ("k", "v", "kv")
    )
    assert both == max(key, value)
    assert (key == value == 1.0) if kv_cache == "fp8" else (0 < key < 1)


def test_an_excluded_linear_keeps_its_weights_and_the_cache_its_format(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    outcome = quantize(recipe="fp8", kv_cache="int8", exclude_modules=["*.self_attn.*", "*.0.mlp*"])
    tensors = _read(tmp_path)
    source = _qkv(weights).astype(ml_dtypes.bfloat16)
    assert tensors[f"{ATTENTION}.qkv.weight"].tobytes() == source.tobytes()
    assert outcome.outputs["quant_config"]["kv_cache_quant_algo"] == "INT8"


def test_tensor_parallel_cuts_between_heads(
    quantize: Quantize, weights: Weights, tmp_path: Path
) -> None:
    quantize(recipe="none", tensor_parallel=2)
    second = TensorFile.open(tmp_path / "checkpoint" / "rank1.safetensors")
    halves = [
        np.split(weights[f"model.layers.0.self_attn.{name}.weight"], 2)[1]
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    stored = second[f"{ATTENTION}.qkv.weight"].read()
    assert stored.tobytes() == np.concatenate(halves).tobytes()
