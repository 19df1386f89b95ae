"""The step `score_vllm`: a serving bundle scores a tokenized suite, as vLLM serves it.

Job: as `score_engine`, with `"bundle"`, the bundle's directory, in place of the engine; for a GPU
with the GPU's name. The server reads the bundle's own `serve.yaml`; nothing is added to it but
where to listen and how many log-probabilities may be asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _step import main
from _trtllm import use_devices, vocabulary_of


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Serves the bundle and scores the suite with it."""
    from _vllm_served import score_bundle, serving  # noqa: PLC0415 - torch takes seconds to import

    use_devices(job)
    with serving(Path(job["bundle"])) as served:
        return score_bundle(served, job, vocabulary_of(Path(job["tokens"])))


if __name__ == "__main__":
    main(run)
