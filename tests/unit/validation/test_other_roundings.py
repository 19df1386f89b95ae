"""Where an export is another valid rounding, the recipe twin takes it over; else it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.faults.catalogue import named
from enginekeeper.faults.fault import Linear, Target
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.validation.audits import audit
from enginekeeper.validation.tensor_files import TensorFile
from enginekeeper.validation.twin import write_checkpoint_twin, write_recipe_twin
from tests.factories import checkpoints
from tests.factories.checkpoints import Array

Weights = dict[str, Array]


def edited(
    recipe: str, fault: str, place: Path, linear: Linear = "mlp.proj", dose: float | None = None
) -> Path:
    kind = named(fault)
    checkpoint = checkpoints.exported(recipe, place)
    injection = Injection(kind, kind.usual if dose is None else dose, Target("last", linear))
    inject(checkpoint, injection, place / "edited", checkpoints.SOURCE)
    return place / "edited"


def weights(directory: Path) -> Weights:
    file = TensorFile.open(directory / "model.safetensors")
    return {name: tensor.read() for name, tensor in file.items()}


def twins(checkpoint: Path, place: Path) -> tuple[Weights, Weights]:
    write_recipe_twin(checkpoints.SOURCE, checkpoint, place / "recipe")
    write_checkpoint_twin(checkpoints.SOURCE, checkpoint, place / "checkpoint")
    return weights(place / "recipe"), weights(place / "checkpoint")


@pytest.mark.parametrize("linear", ["attention.qkv", "mlp.proj"])
@pytest.mark.parametrize(
    ("recipe", "control"),
    [
        ("w8a16", "rounding-random"),
        ("w8a8_sq", "rounding-random"),
        ("w4a16", "rounding-random"),
        ("w4a16", "rounding-clipped"),
        ("w4a16_awq", "rounding-diffused"),
        ("nvfp4", "rounding-clipped"),
    ],
)
def test_another_valid_rounding_is_the_twins_own(
    recipe: str, control: str, linear: Linear, tmp_path: Path
) -> None:
    ours, theirs = twins(edited(recipe, control, tmp_path, linear), tmp_path)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_twin_that_took_a_rounding_over_says_so_in_the_audit(tmp_path: Path) -> None:
    checkpoint = edited("w4a16", "rounding-random", tmp_path)
    report = audit(checkpoints.SOURCE, checkpoint)[-1]
    assert report.examined["rounded_otherwise"] == ["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    ("recipe", "fault", "dose"),
    [
        ("w4a16", "scale-gain", 1.03),
        ("w8a16", "scale-gain", 1.003),
        ("w4a16", "zero-shift-some", None),
        ("nvfp4", "scale-gain", 1.03),
        ("w4a16", "bit-flip", 1),
    ],
)
def test_damage_is_not_taken_over(
    recipe: str, fault: str, dose: float | None, tmp_path: Path
) -> None:
    healthy, _ = twins(checkpoints.exported(recipe, tmp_path / "healthy"), tmp_path / "healthy")
    ours, _ = twins(edited(recipe, fault, tmp_path, dose=dose), tmp_path)
    assert all(np.array_equal(ours[name], healthy[name]) for name in healthy)


def test_groups_of_another_size_than_announced_are_not_compared(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16_awq_tp2", tmp_path)
    checkpoints.edit_quantization(checkpoint, group_size=1)

    ours, _ = twins(checkpoint, tmp_path)

    assert all(np.isfinite(values).all() for values in ours.values())
