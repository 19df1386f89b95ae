"""The step `probe_engine`: does an engine say the same, however it is asked?

Job: `{"engine", "tokens", "prompts": [numbers], "longest", "context", "top_k", "output"}`. The
beginnings of some prompts are scored one at a time: the base. Then again on every rung of the
ladders, at the base's best tokens: *batch* (several prompts of other lengths at once, each several
times where there are more rows than prompts, and the most identical ones that the engine takes),
*chunk* (prefill in pieces), *decode* (every token through its graph), *reuse* (the first half is
what another request left in the cache), *eviction* (the cache is full of another request; and the
half that is reused was overwritten in between, and put back). Of several copies of a prompt the one
that is furthest from the base is kept. Chunks that the beginnings are too short for are asked of
contexts of `context` tokens, as many, put together of all prompts. What a healthy engine says
differs by the order of sums alone.

The file: `top_logprobs` and `offsets` of the base, `RUNG` and `finite_RUNG` for each rung, and in
its metadata the rungs, by ladder, the prompts, and what this runner offers. What is of the contexts
has `context_` before its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _engine_arm import EngineArm
from _step import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from _engine import Engine

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

SCHEMA = "1"

BATCHES = (2, 3, 4, 5, 8, 15, 16, 17, 32, 64)
"""Around the sizes at which kernels, graphs and tiles change."""

CHUNKS = (7, 16, 64, 512)

OFFERS = ("batch", "chunk", "decode", "evict", "logits", "reuse")

SHORTER = 7
"""Tokens by which every prompt is shorter than the one before, four in turn."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Climbs the ladders and returns which rungs there were."""
    from _engine import Engine  # noqa: PLC0415 - torch takes seconds to import
    from _score_file import read_tokens, write_arrays  # noqa: PLC0415

    engine = Engine(Path(job["engine"]))
    tokens = read_tokens(Path(job["tokens"]), engine.config.vocabulary)
    chosen = tokens.chosen(job["prompts"])
    prompts = _of_other_lengths([tokens.ids[number] for number in chosen], int(job["longest"]))
    contexts = _contexts(tokens.ids, len(chosen), min(int(job["context"]), engine.max_seq_len))
    strangers = [token for ids in reversed(tokens.ids) for token in ids]
    longest, top_k = max(map(len, prompts)), int(job["top_k"])
    base = _logprobs(EngineArm(engine), prompts, 1)
    arrays, ladders = _climbed(base, _rungs(engine, prompts, base, strangers), top_k)
    larger = [size for size in CHUNKS if longest <= size < len(contexts[0])]
    further: dict[str, list[str]] = {}
    if larger:
        base = _logprobs(EngineArm(engine), contexts, 1)
        more, further = _climbed(base, _chunks(engine, contexts, larger), top_k)
        arrays |= {f"context_{name}": array for name, array in more.items()}
    metadata = {
        "schema": SCHEMA, "ladders": json.dumps(ladders), "context_ladders": json.dumps(further),
        "prompts": json.dumps(chosen), "offers": json.dumps(OFFERS),
    }  # fmt: skip
    write_arrays(Path(job["output"]), arrays, metadata)
    return {"rungs": ladders, "further": further, "positions": int(arrays["offsets"][-1])}


def _climbed(
    base: list[Tensor], rungs: Iterator[tuple[str, str, list[Tensor]]], top_k: int
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Returns what was said on every rung at the base's best tokens, and the rungs by ladder."""
    import numpy as np  # noqa: PLC0415

    best = [rows.topk(top_k, dim=-1) for rows in base]
    arrays = {
        "top_logprobs": np.concatenate([one.values.numpy() for one in best]),
        "offsets": np.cumsum([0, *map(len, base)], dtype=np.int64),
    }
    ladders: dict[str, list[str]] = {}
    for ladder, rung, said in rungs:
        print(f"progress 0/0 {ladder} {rung}", flush=True)
        name = f"{ladder}-{rung}"
        ladders.setdefault(ladder, []).append(name)
        at = [rows.gather(1, one.indices) for rows, one in zip(said, best, strict=True)]
        arrays[name] = np.concatenate([one.numpy() for one in at])
        finite = [rows.isfinite().all(dim=-1).numpy() for rows in said]
        arrays[f"finite_{name}"] = np.concatenate(finite).astype(np.uint8)
    return arrays, ladders


def _contexts(texts: Prompts, count: int, length: int) -> list[list[int]]:
    """Returns contexts of all texts one after the other, each beginning at another one."""
    found = []
    for number in range(count):
        first = number * len(texts) // count
        joined = [token for ids in (*texts[first:], *texts[:first]) for token in ids]
        found.append(joined[:length])
    return found


def _of_other_lengths(prompts: Prompts, longest: int) -> list[Sequence[int]]:
    """Cuts prompts at lengths that differ, so that rows of a batch are padded, each otherwise."""
    lengths = [max(2, longest - SHORTER * (place % 4)) for place in range(len(prompts))]
    return [ids[:length] for ids, length in zip(prompts, lengths, strict=True)]


def _rungs(
    engine: Engine, prompts: Prompts, base: list[Tensor], strangers: Sequence[int]
) -> Iterator[tuple[str, str, list[Tensor]]]:
    whole, most = EngineArm(engine), engine.max_batch
    for size in BATCHES:
        if size <= min(most, len(prompts)):
            yield "batch", str(size), _logprobs(whole, prompts, size)
        elif size <= most:
            rows = [prompts[row % len(prompts)] for row in range(size)]
            said = _logprobs(whole, rows, size)
            copies = [said[place :: len(prompts)] for place in range(len(prompts))]
            yield "batch", str(size), _furthest(copies, base)
    if most > 1:
        copies = [_logprobs(whole, [one] * most, most) for one in prompts]
        yield "batch", f"{most}-identical", _furthest(copies, base)
    longest = max(map(len, prompts))
    yield from _chunks(engine, prompts, [size for size in CHUNKS if size < longest])
    together = min(engine.max_batch, len(prompts))
    yield "decode", "1", _logprobs(EngineArm(engine, 1), prompts, together)
    yield from _of_used_caches(engine, prompts, strangers, together)


def _chunks(
    engine: Engine, prompts: Prompts, sizes: Sequence[int]
) -> Iterator[tuple[str, str, list[Tensor]]]:
    for size in sizes:
        yield "chunk", str(size), _logprobs(EngineArm(engine, size), prompts, 1)


def _of_used_caches(
    engine: Engine, prompts: Prompts, strangers: Sequence[int], together: int
) -> Iterator[tuple[str, str, list[Tensor]]]:
    """Asks in memory in which other requests were, one at a time and many together."""
    from _reused_cache import ReusedCache  # noqa: PLC0415 - torch

    cache = ReusedCache(engine, strangers)
    for size in sorted({1, together}):
        yield "reuse", str(size), _said(engine, cache.prefix_kept, prompts, size)
    yield "eviction", "overwritten", _said(engine, cache.evicted, prompts, together)
    yield "eviction", "brought-back", _said(engine, cache.brought_back, prompts, together)


def _furthest(copies: Sequence[Sequence[Tensor]], base: Sequence[Tensor]) -> list[Tensor]:
    """Returns of each prompt's copies the one that is furthest from the base; NaN is furthest."""

    def distance(rows: Tensor, one: Tensor) -> float:
        return float((rows - one).abs().nan_to_num(nan=float("inf")).max())

    return [
        max(said, key=lambda rows, one=one: distance(rows, one))
        for said, one in zip(copies, base, strict=True)
    ]


def _logprobs(arm: EngineArm, prompts: Prompts, size: int) -> list[Tensor]:
    """Returns the log-probabilities of every prompt, asked in batches of a size."""
    return _said(arm, arm.states, prompts, size)


def _said(
    head: Engine | EngineArm,
    states_of: Callable[[Prompts], list[Tensor]],
    prompts: Prompts,
    size: int,
) -> list[Tensor]:
    import torch  # noqa: PLC0415

    return [
        head.logits(states[:-1]).to(torch.float32).log_softmax(dim=-1)
        for first in range(0, len(prompts), size)
        for states in states_of(prompts[first : first + size])
    ]


if __name__ == "__main__":
    main(run)
