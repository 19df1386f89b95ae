"""The laboratory on other families: with outliers, too, faults are found and controls pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.faults.catalogue import named
from enginekeeper.faults.fault import Linear, Target
from enginekeeper.faults.grid import Case
from enginekeeper.faults.injection import Injection
from enginekeeper.faults.trial import Bench
from tests.factories import checkpoints
from tests.factories.families import FAMILIES, Cut, lay_out
from tests.factories.honest_exports import export


def bench(family: str, algorithm: str | None, directory: Path, dtype: str = "bfloat16") -> Bench:
    cut = Cut(layers=(0, 1), vocabulary=92)
    source = lay_out(FAMILIES[family], checkpoints.SOURCE, cut, directory / family)
    return Bench.open(export(source, directory / "checkpoint", algorithm, dtype=dtype), source)


def case(fault: str, dose: float | None, linear: Linear) -> Case:
    wanted = named(fault)
    usual = wanted.usual if dose is None else dose
    return Case(Injection(wanted, usual, Target("last", linear)), below_limit=False)


@pytest.mark.parametrize(
    ("family", "algorithm", "control", "dose"),
    [
        ("outliers", "W4A16", "rounding-whole-range", None),
        ("outliers", "W4A16", "rounding-random", None),
        ("outliers", "W4A16_AWQ", "rounding-random", None),
        ("outliers", "FP8_PER_CHANNEL_PER_TOKEN", "rounding-margin", 1.02),
        ("outliers", "FP8_PER_CHANNEL_PER_TOKEN", "rounding-margin", 1.05),
        ("outliers", "W8A8_SQ_PER_CHANNEL", "rounding-half-up", None),
        ("outliers", "W8A8_SQ_PER_CHANNEL", "rounding-diffused", None),
        ("outliers", "W8A8_SQ_PER_CHANNEL", "smoothing-other", None),
        ("norms", None, "norm-folded", 2.0),
        ("norms", "W8A16", "norm-folded", 0.5),
        ("norms", "W4A16_AWQ", "rounding-random", None),
        ("norms", "W8A8_SQ_PER_CHANNEL", "rounding-half-up", None),
        ("norms", "W8A8_SQ_PER_CHANNEL", "rounding-diffused", None),
        ("qwen2", "W8A16", "config-defaults-said", None),
        ("llama3", "W8A16", "config-defaults-said", None),
    ],
)
def test_a_healthy_variation_is_passed(
    family: str, algorithm: str | None, control: str, dose: float | None, tmp_path: Path
) -> None:
    trial = bench(family, algorithm, tmp_path).run(case(control, dose, "mlp.fc"))
    assert (trial.outcome, trial.told) == ("clear", ())


@pytest.mark.parametrize(
    ("algorithm", "control", "dose"),
    [
        ("W8A16", "rounding-margin", 1.05),
        ("FP8_PER_CHANNEL_PER_TOKEN", "rounding-margin", 1.05),
        ("W8A8_SQ_PER_CHANNEL", "rounding-random", None),
        ("W8A16", "norm-folded", 0.5),
        ("W4A16_AWQ", "norm-folded", 0.5),
    ],
)
def test_a_healthy_variation_of_rows_below_the_normal_numbers_is_passed(
    algorithm: str, control: str, dose: float | None, tmp_path: Path
) -> None:
    trial = bench("dead", algorithm, tmp_path, "float16").run(case(control, dose, "mlp.fc"))
    assert (trial.outcome, trial.told) == ("clear", ())


@pytest.mark.parametrize("algorithm", [None, "W8A16", "W4A16_AWQ"])
def test_a_norm_with_zeros_that_nothing_takes_back_is_found_and_named(
    algorithm: str | None, tmp_path: Path
) -> None:
    trial = bench("norms", algorithm, tmp_path).run(case("norm-gain", 2.0, "mlp.fc"))
    assert (trial.outcome, trial.culprit_right) == ("hit", True)


@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_a_norm_of_ones_is_named_though_no_activation_scale_fits_it(
    algorithm: str, tmp_path: Path
) -> None:
    trial = bench("norms", algorithm, tmp_path).run(case("norm-ones", None, "mlp.proj"))
    assert (trial.outcome, trial.culprit_right, trial.innocents) == ("hit", True, 0)
    assert trial.class_right  # where the source has a zero, the ratio is infinite and the norm not


@pytest.mark.parametrize(
    ("algorithm", "fault", "dose"),
    [
        ("W4A16_AWQ", "prequant-some", 0.125),
        ("W4A16_AWQ", "prequant-gain", 1.03),
        ("W8A8_SQ_PER_CHANNEL", "prequant-gain", 1.03),
        ("W8A16", "scale-gain", 1.003),
        ("W4A16", "scale-gain", 1.03),
        ("FP8", "scale-gain", 1.01),
        ("NVFP4", "scale-gain", 1.01),
    ],
)
@pytest.mark.parametrize("family", ["outliers", "dead"])
def test_a_fault_beside_outliers_or_silence_is_found_and_named(
    family: str, algorithm: str, fault: str, dose: float, tmp_path: Path
) -> None:
    trial = bench(family, algorithm, tmp_path).run(case(fault, dose, "mlp.proj"))
    assert (trial.outcome, trial.culprit_right) == ("hit", True)
