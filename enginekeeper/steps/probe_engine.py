"""The step `probe_engine`: does an engine say the same, however it is asked?

Job: `{"engine", "tokens", "prompts": [numbers], "longest", "top_k", "output"}`. The beginnings of
some prompts are scored one at a time: the base. Then again on every rung of three ladders, at the
base's best tokens: *batch* (several prompts of other lengths at once, and the most identical ones
that the engine takes), *chunk* (prefill in pieces), *decode* (every token through its graph). What
a healthy engine says differs by the order of sums alone.

The file: `top_logprobs` of the base, `RUNG` and `finite_RUNG` for each rung, and in its metadata
the rungs, by ladder, and the prompts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _engine_arm import EngineArm
from _step import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from _engine import Engine

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

SCHEMA = "1"

BATCHES = (2, 3, 4, 5, 8, 15, 16, 17, 32, 64)
"""Around the sizes at which kernels, graphs and tiles change."""

CHUNKS = (7, 16, 64, 512)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Climbs the ladders and returns which rungs there were."""
    import numpy as np  # noqa: PLC0415 - torch takes seconds to import
    from _engine import Engine  # noqa: PLC0415
    from _score_file import read_tokens, write_arrays  # noqa: PLC0415

    engine = Engine(Path(job["engine"]))
    tokens = read_tokens(Path(job["tokens"]), engine.config.vocabulary)
    chosen = tokens.chosen(job["prompts"])
    prompts = [tokens.ids[number][: int(job["longest"])] for number in chosen]
    base = _logprobs(EngineArm(engine), prompts, 1)
    best = [rows.topk(int(job["top_k"]), dim=-1) for rows in base]
    arrays = {"top_logprobs": np.concatenate([one.values.numpy() for one in best])}
    ladders: dict[str, list[str]] = {}
    for ladder, rung, said in _rungs(engine, prompts):
        print(f"progress 0/0 {ladder} {rung}", flush=True)
        name = f"{ladder}-{rung}"
        ladders.setdefault(ladder, []).append(name)
        at = [rows.gather(1, one.indices) for rows, one in zip(said, best, strict=True)]
        arrays[name] = np.concatenate([one.numpy() for one in at])
        finite = [rows.isfinite().all(dim=-1).numpy() for rows in said]
        arrays[f"finite_{name}"] = np.concatenate(finite).astype(np.uint8)
    offsets = np.cumsum([0, *(len(prompt) - 1 for prompt in prompts)], dtype=np.int64)
    metadata = {
        "schema": SCHEMA, "ladders": json.dumps(ladders), "prompts": json.dumps(chosen),
    }  # fmt: skip
    write_arrays(Path(job["output"]), {**arrays, "offsets": offsets}, metadata)
    return {"rungs": ladders, "positions": int(offsets[-1])}


def _rungs(engine: Engine, prompts: Prompts) -> Iterator[tuple[str, str, list[Tensor]]]:
    whole = EngineArm(engine)
    for size in BATCHES:
        if size <= min(engine.max_batch, len(prompts)):
            yield "batch", str(size), _logprobs(whole, prompts, size)
    if engine.max_batch > 1:
        most = engine.max_batch
        yield (
            "batch",
            f"{most}-identical",
            [_logprobs(whole, [one] * most, most)[-1] for one in prompts],
        )
    longest = max(map(len, prompts))
    for size in CHUNKS:
        if size < longest:
            yield "chunk", str(size), _logprobs(EngineArm(engine, size), prompts, 1)
    together = min(engine.max_batch, len(prompts))
    yield "decode", "1", _logprobs(EngineArm(engine, 1), prompts, together)


def _logprobs(arm: EngineArm, prompts: Prompts, size: int) -> list[Tensor]:
    """Returns the log-probabilities of every prompt, asked in batches of a size."""
    import torch  # noqa: PLC0415

    return [
        arm.logits(states[:-1]).to(torch.float32).log_softmax(dim=-1)
        for first in range(0, len(prompts), size)
        for states in arm.states(prompts[first : first + size])
    ]


if __name__ == "__main__":
    main(run)
