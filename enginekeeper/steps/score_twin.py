"""The step `score_twin`: a Hugging Face directory scores a tokenized suite in float32.

Job: as `score_engine`, with `"twin"` for the directory. A directory with `twin.json` is a twin:
its inputs are scaled and rounded as that file says. One without is a model run as it is. An
optional `"nudge": {"relative", "seed"}` multiplies the output of every linear layer with 1 plus
noise of that size, as another order of summation would: how far a twin moves from itself is how
far any correct executor may be from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _step import main
from _twin_arm import TransformersArm


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the model, installs the twin's hooks if it has any, and scores the suite."""
    from _scoring import score  # noqa: PLC0415 - torch takes seconds to import
    from _twin import load_model, nudge  # noqa: PLC0415

    loaded = load_model(Path(job["twin"]))
    if job.get("nudge"):
        nudge(loaded.model, float(job["nudge"]["relative"]), int(job["nudge"]["seed"]))
    return score(TransformersArm(loaded), job)


if __name__ == "__main__":
    main(run)
