"""The checkpoint twin beside the recipe twin: equal, scored, or told why not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from enginekeeper.orchestration.export_arm import score_checkpoint_twin
from enginekeeper.orchestration.stages import Checkpoint, Source
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.toolchains.errors import (
    StepCrashedError,
    StepKilledError,
    StepPlace,
    StepRefusedError,
)
from enginekeeper.validation.twin import write_recipe_twin
from registry.digests import digest_bytes
from tests.factories import checkpoints

PLACE = StepPlace("score_twin", "inductor", Path("run"))
DIGEST = digest_bytes(b"any")


def scored(
    checkpoint: Path, place: Path, error: Exception | None = None
) -> tuple[dict[str, str | bool], float]:
    """Asks for the checkpoint twin beside a recipe twin, of a shop whose step ends so."""

    def run(*_: object, **__: object) -> SimpleNamespace:
        if error is not None:
            raise error
        return SimpleNamespace(seconds=1.0)

    write_recipe_twin(checkpoints.SOURCE, checkpoint, place / "twin")
    shop = cast("Workshop", SimpleNamespace(run=run))
    source, stored = Source(checkpoints.SOURCE, DIGEST), Checkpoint(checkpoint, DIGEST)
    return score_checkpoint_twin(shop, source, stored, place / "twin", {}, name="tiny")


def spoilt(place: Path) -> Path:
    checkpoint = checkpoints.exported("w8a16", place)
    name = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, lambda scales: scales * np.float32(2))
    return checkpoint


def test_an_honest_checkpoint_is_not_scored_a_second_time(tmp_path: Path) -> None:
    never = StepCrashedError("asked", PLACE)
    said = scored(checkpoints.exported("w8a16", tmp_path), tmp_path, never)
    assert said == ({"checkpoint_twin": "equal"}, 0.0)


def test_a_checkpoint_with_another_number_is_scored_and_the_time_counts(tmp_path: Path) -> None:
    assert scored(spoilt(tmp_path), tmp_path) == ({"checkpoint_twin": "scored"}, 1.0)
    assert not (tmp_path / "checkpoint_twin").exists()


def test_a_checkpoint_that_cannot_be_run_takes_no_verdict_away(tmp_path: Path) -> None:
    said = scored(
        spoilt(tmp_path), tmp_path, StepRefusedError("no such activation", PLACE, kind="x")
    )
    assert said == ({"no_checkpoint_twin": "not scored: no such activation"}, 0.0)


def test_a_crash_that_nobody_explains_takes_none_away_and_is_told_from_an_answer(
    tmp_path: Path,
) -> None:
    said = scored(spoilt(tmp_path), tmp_path, StepCrashedError("crashed", PLACE))
    assert said == ({"no_checkpoint_twin": "not scored: crashed", "crashed": True}, 0.0)


def test_what_this_machine_did_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(StepKilledError):
        scored(spoilt(tmp_path), tmp_path, StepKilledError("killed", PLACE))
    assert not (tmp_path / "checkpoint_twin").exists()
