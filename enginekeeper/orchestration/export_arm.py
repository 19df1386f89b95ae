"""The checkpoint twin beside the recipe twin: scored only where the two differ in a number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from enginekeeper.errors import InputError
from enginekeeper.orchestration.stages import SCORES, Checkpoint, Made, Source
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.toolchains.errors import (
    DiagnosedStepError,
    StepCrashedError,
    StepRefusedError,
)
from enginekeeper.validation.checkpoint import Checkpoint as StoredCheckpoint
from enginekeeper.validation.scores import Scores, load_scores
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tokens import TokenizedSuite
from enginekeeper.validation.triangle import as_the_recipe
from enginekeeper.validation.twin import checkpoint_twin_of, is_checkpoint_twin
from registry.digests import Digest

TWIN_SCORES = "twin-scores"
EXPORT = "checkpoint_twin.safetensors"
_EQUAL, _WHY_NOT, _CRASHED = "equal", "no_checkpoint_twin", "crashed"


def score_checkpoint_twin(
    shop: Workshop,
    source: Source,
    checkpoint: Checkpoint,
    recipe_twin: Path,
    job: dict[str, Any],
    *,
    name: str,
) -> tuple[dict[str, str | bool], float]:
    """Says of a checkpoint twin that it equals the recipe twin, or scores it beside its scores.

    Returns what the product's record says of it, and the seconds that the step took.

    `job` is that of the recipe twin, whose scores are there. A checkpoint that cannot be read or
    run as it says is told so: the engine is judged by the recipe twin, with or without it.
    """
    twin, directory = recipe_twin.with_name("checkpoint_twin"), recipe_twin.parent
    targets = {"twin": str(directory / SCORES)}
    asked = {**job, "twin": str(twin), "targets": targets, "output": str(directory / EXPORT)}
    try:
        model, stored = SourceModel.open(source.path), StoredCheckpoint.open(checkpoint.path)
        if is_checkpoint_twin(recipe_twin, model, stored):
            return {"checkpoint_twin": _EQUAL}, 0.0
        checkpoint_twin_of(model, stored, twin)
        outcome = shop.run("inductor", "score_twin", asked, name=name, minutes=60)
    except DiagnosedStepError:
        raise  # the log names what is wrong with this machine: another run may succeed
    except (InputError, StepRefusedError) as error:
        return {_WHY_NOT: f"not scored: {error.what}"}, 0.0
    except StepCrashedError as error:
        # What transformers makes of an unknown config is a crash; so is much else.
        return {_WHY_NOT: f"not scored: {error.what}", _CRASHED: True}, 0.0
    finally:
        if twin.is_dir():
            shutil.rmtree(twin)
    return {"checkpoint_twin": "scored"}, outcome.seconds


def forget_a_crash(shop: Workshop, key: Digest) -> None:
    """Removes twin scores beside which the checkpoint twin crashed, so that both are made again.

    Nobody knows what crashed: it may be the checkpoint, and it may have been this machine.
    """
    if shop.work.find(TWIN_SCORES, key) is None:
        return
    if shop.work.record(TWIN_SCORES, key).get(_CRASHED):
        shop.work.forget(TWIN_SCORES, key)


def read_checkpoint_twin(scored: Made, twin: Scores, tokens: TokenizedSuite) -> Scores | None:
    """Reads what was scored beside a recipe twin; None where the checkpoint could not be run."""
    said = scored.record.get("checkpoint_twin")
    if said == _EQUAL:
        return as_the_recipe(twin)
    path = scored.path / EXPORT
    return load_scores(path, tokens) if path.is_file() else None


def why_no_checkpoint_twin(scored: Made) -> str | None:
    """Returns why a checkpoint twin was not scored; None where it was, or was not asked for."""
    why: str | None = scored.record.get(_WHY_NOT)
    return why
