"""What the fault laboratory showed the audits to miss, to misname, or to stop for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.faults.catalogue import named
from enginekeeper.faults.fault import Linear, Target
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.validation.activation_scales import norm_bounds
from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from tests.factories import checkpoints


def found(
    recipe: str,
    fault: str,
    tmp_path: Path,
    dose: float | None = None,
    *,
    linear: Linear = "mlp.proj",
) -> list[Finding]:
    """Audits an export of the tiny model with a fault or a control in it."""
    kind = named(fault)
    checkpoint = checkpoints.exported(recipe, tmp_path)
    injection = Injection(kind, kind.usual if dose is None else dose, Target("last", linear))
    inject(checkpoint, injection, tmp_path / "out", checkpoints.SOURCE)
    reports = audit(checkpoints.SOURCE, tmp_path / "out")
    return [finding for report in reports for finding in report.findings]


@pytest.mark.parametrize("recipe", ["fp8", "fp8_per_channel_per_token"])
def test_one_fp8_weight_that_is_nan_is_found(recipe: str, tmp_path: Path) -> None:
    (finding,) = found(recipe, "weight-nan", tmp_path)
    assert (finding.result, finding.taxonomy) == ("fail", "T20")
    assert "NaN or infinite" in finding.message


@pytest.mark.parametrize("dose", [0.5, 2.0])
@pytest.mark.parametrize("recipe", ["w4a16", "w4a16_awq", "w4a8_awq", "nvfp4"])
def test_another_group_size_is_a_finding(recipe: str, dose: float, tmp_path: Path) -> None:
    first = found(recipe, "group-size", tmp_path, dose)[0]
    assert (first.check, first.taxonomy) == ("config.quantization.group_size", "T3")


def test_a_cast_to_fp8_without_a_scale_is_found(tmp_path: Path) -> None:
    (finding,) = found("fp8", "cast-without-scale", tmp_path)
    assert (finding.result, finding.taxonomy) == ("fail", "T2")
    assert finding.message == "every scale is 1, as where none was stored"


@pytest.mark.parametrize("recipe", ["fp8", "nvfp4", "w4a8_awq"])
@pytest.mark.parametrize("fault", ["activation-one", "activation-reciprocal"])
def test_an_activation_scale_beyond_what_the_norm_gives_is_found(
    recipe: str, fault: str, tmp_path: Path
) -> None:
    finding = found(recipe, fault, tmp_path, linear="attention.qkv")[0]
    assert (finding.result, finding.taxonomy) == ("fail", "T13")
    assert finding.where == "transformer.layers.1.attention.qkv.activation_scaling_factor"


@pytest.mark.parametrize("recipe", ["fp8", "nvfp4", "w4a8_awq"])
@pytest.mark.parametrize("dose", [1.25, 2.0])
def test_room_above_the_largest_activation_is_honest(
    recipe: str, dose: float, tmp_path: Path
) -> None:
    assert found(recipe, "activations-wider", tmp_path, dose) == []


def test_one_nan_is_no_disagreement_of_ranks(tmp_path: Path) -> None:
    (finding,) = found("fp8", "activation-nan", tmp_path)
    assert finding.taxonomy == "T13"


@pytest.mark.parametrize("recipe", ["w8a8_sq", "w4a16_awq", "w4a8_awq"])
@pytest.mark.parametrize(
    "fault", ["prequant-reciprocal", "prequant-ones", "prequant-rolled", "prequant-of-neighbour"]
)
def test_another_pre_quant_vector_is_named_as_such(recipe: str, fault: str, tmp_path: Path) -> None:
    (finding,) = found(recipe, fault, tmp_path)
    assert (finding.where, finding.taxonomy) == ("transformer.layers.1.mlp.proj", "T9")
    assert "the pre-quant vector does not fit" in finding.message


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16", "fp8_per_channel_per_token"])
@pytest.mark.parametrize("bit", [0, 1, 2])
def test_the_lowest_bits_of_one_code_are_found(recipe: str, bit: int, tmp_path: Path) -> None:
    (finding,) = found(recipe, "bit-flip", tmp_path, bit)
    assert (finding.result, finding.taxonomy) == ("fail", "T25")


@pytest.mark.parametrize("recipe", ["w4a16_awq", "w4a8_awq"])
@pytest.mark.parametrize("bit", [0, 1, 4, 5])
def test_of_awq_one_code_a_step_off_is_found(recipe: str, bit: int, tmp_path: Path) -> None:
    (finding,) = found(recipe, "bit-flip", tmp_path, bit)
    assert (finding.result, finding.taxonomy) == ("fail", "T25")


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_a_norm_one_percent_off_is_blamed_whatever_roundings_the_recipe_leaves_open(
    recipe: str, tmp_path: Path
) -> None:
    findings = found(recipe, "norm-gain", tmp_path, 1.01)
    assert findings[0].check == "weights.norm"
    assert all("norm" in finding.where for finding in findings)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("linear-left-plain", "transformer.layers.1.mlp.proj.weight"),
        ("exclusion-lost", "quantization.exclude_modules"),
        ("exclusions-empty", "quantization.exclude_modules"),
        ("excluded-and-quantized", "quantization.exclude_modules"),
        ("algorithm-missing", "quantization.quant_algo"),
        ("algorithm", "quantization.quant_algo"),
    ],
)
@pytest.mark.parametrize("recipe", ["w8a16", "w4a16_awq", "fp8", "nvfp4"])
def test_of_block_and_tensors_the_one_that_leaves_the_ordinary_is_named_first(
    recipe: str, fault: str, where: str, tmp_path: Path
) -> None:
    assert found(recipe, fault, tmp_path)[0].where == where


def test_the_linear_that_lacks_its_pre_quant_vector_is_named(tmp_path: Path) -> None:
    first = found("w4a16_awq", "prequant-missing", tmp_path)[0]
    assert first.where == "transformer.layers.1.mlp.proj.prequant_scaling_factor"


@pytest.mark.parametrize("recipe", ["w4a16_awq", "w4a8_awq", "w4a16_awq_tp2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_scales_of_awq_are_honest(recipe: str, dtype: str, tmp_path: Path) -> None:
    assert found(recipe, f"scales-{dtype}", tmp_path, linear="attention.qkv") == []


@pytest.mark.parametrize("recipe", ["nvfp4", "w4a16"])  # the others clip nothing here
@pytest.mark.parametrize("linear", ["attention.qkv", "mlp.proj"])
def test_scales_clipped_for_the_smallest_error_are_honest(
    recipe: str, linear: Linear, tmp_path: Path
) -> None:
    assert found(recipe, "rounding-clipped", tmp_path, linear=linear) == []


def test_integers_spread_over_their_whole_range_are_honest(tmp_path: Path) -> None:
    assert found("w8a8_sq", "rounding-whole-range", tmp_path, linear="attention.qkv") == []


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16"])
def test_halves_rounded_up_are_honest(recipe: str, tmp_path: Path) -> None:
    assert found(recipe, "rounding-half-up", tmp_path) == []


@pytest.mark.parametrize("recipe", ["w8a16", "w8a8_sq", "w4a16", "w4a16_awq"])
@pytest.mark.parametrize("linear", ["attention.dense", "mlp.proj"])
def test_rounding_at_random_is_honest(recipe: str, linear: Linear, tmp_path: Path) -> None:
    assert found(recipe, "rounding-random", tmp_path, linear=linear) == []


@pytest.mark.parametrize("bit", [2, 4, 6])
def test_a_flipped_bit_of_a_plain_weight_is_found_however_small_its_share(
    bit: int, tmp_path: Path
) -> None:
    (finding,) = found("none", "bit-flip", tmp_path, bit)
    assert (finding.result, finding.taxonomy) == ("fail", "T25")


def test_last_places_of_plain_weights_are_in_doubt_and_not_wrong(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    name = "transformer.layers.1.mlp.proj.weight"
    checkpoints.edit_tensor(
        checkpoint, name, lambda w: (w.view(np.uint16) ^ np.uint16(1)).view(w.dtype)
    )
    reports = audit(checkpoints.SOURCE, checkpoint)
    (finding,) = [finding for report in reports for finding in report.findings]
    assert finding.result == "inconclusive"


def test_scales_of_one_are_said_to_be_that(tmp_path: Path) -> None:
    (finding,) = found("w8a16", "scale-one", tmp_path)
    assert (finding.taxonomy, finding.actual) == ("T2", 1.0)


def test_the_bounds_of_a_norm_hold_for_any_input() -> None:
    random = np.random.default_rng(0)
    weight = random.uniform(0.2, 3.0, 64)
    lowest, highest = norm_bounds(weight)
    for _ in range(200):
        x = random.standard_normal(64) * random.choice([0.01, 1.0, 50.0], 64)
        largest = np.abs(x / np.sqrt((x**2).mean()) * weight).max()
        assert lowest <= largest <= highest


def test_the_bounds_of_a_norm_are_reached() -> None:
    weight = np.array([0.5, -2.0, 1.0])
    lowest, highest = norm_bounds(weight)
    alone, even = np.array([0.0, 1.0, 0.0]), 1 / weight
    given = [np.abs(x / np.sqrt((x**2).mean()) * weight).max() for x in (even, alone)]
    assert given == pytest.approx([lowest, highest])


@pytest.mark.parametrize("recipe", ["w4a16", "w4a16_awq", "w8a16"])
def test_shifted_integers_are_no_rounding_however_few_groups_have_them(
    recipe: str, tmp_path: Path
) -> None:
    findings = found(recipe, "zero-shift-some", tmp_path, 0.125)
    assert findings[0].result == "fail"
