"""The step `probe_trtllm`: does an engine of TensorRT-LLM say the same, however it is asked?

Job: `{"api", "reusing", "limits", "tokens", "prompts": [numbers], "longest", "top_k", "output"}`.
The beginnings of some prompts are continued, and one long context that fills the engine's limits.
The base is what prefill says, one request at a time, at every token that was chosen. Rungs ask for
the same: *decode* (what the tokens were chosen from), *batch* (several requests of other lengths at
once, and as many identical ones as the engine takes), *reuse* (by an LLM whose cache keeps blocks).
Stop tokens, an end of text and lengths are asked for, too, and held against the continuation.

The file: `top_logprobs` of the base, `RUNG` and `finite_RUNG` for each rung; in its metadata the
rungs by ladder, the prompts (-1 is the long one), what this runner offers, what was wrong
about stopping, and which tokens the logits beside them do not choose. Written against the
documented interface; not run on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _runtime import lead_caches
from _step import Refusal, main
from _trtllm import use_devices, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from _llm_api import Answer, LlmApi

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

SCHEMA = "1"
TOKENS = 16
"""How far each prompt is continued: every one of them is a position of every rung."""

BATCHES = (2, 3, 4, 5, 8, 15, 16, 17, 32, 64)
"""Around the sizes at which kernels, graphs and tiles change."""

OFFERS = ("batch", "choices", "decode", "logits", "reuse", "text")

TIE = 2.0**-7
"""How far below the best logit, of its size, the chosen one may be: bfloat16 cannot tell them."""

LONG = -1


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Asks in every way and returns which rungs there were."""
    lead_caches(job)
    from _llm_api import LlmApi  # noqa: PLC0415 - torch takes seconds to import

    use_devices(job)
    vocabulary = vocabulary_of(Path(job["tokens"]))
    prompts = _prompts(job, vocabulary)
    texts = list(prompts.values())
    with LlmApi(job["api"], vocabulary) as api:
        made = [api.ask([ids], TOKENS, return_generation_logits=True)[0] for ids in texts]
        _require_whole(made)
        asked = _Asked(texts, made)
        rungs = dict(_rungs(api, asked, int(job["limits"]["max_batch_size"])))
        stop, chosen = _stop(api, texts, made), _chosen(made)
    print("progress 0/0 reuse", flush=True)
    with LlmApi(job["reusing"], vocabulary) as api:
        for whole in asked.whole:
            api.ask([whole], 1)
        rungs["reuse-1"] = asked.one_by_one(api)
    arrays, ladders = _arrays(rungs, int(job["top_k"]), len(texts))
    said = {"stop": stop, "chosen": chosen}
    _write(Path(job["output"]), arrays, ladders, list(prompts), said)
    return {"rungs": ladders, **said}


class _Asked:
    """The texts whose tokens are asked about: each prompt and what followed it."""

    def __init__(self, prompts: Prompts, made: Sequence[Answer]) -> None:
        self.made = made
        self.whole = [[*ids, *answer.ids[:-1]] for ids, answer in zip(prompts, made, strict=True)]
        self._beginnings = [
            whole[: len(ids) + step]
            for ids, whole in zip(prompts, self.whole, strict=True)
            for step in range(TOKENS)
        ]

    def one_by_one(self, api: LlmApi) -> Tensor:
        """Returns the rows of all positions, each by a request of its own."""
        return self.in_batches(api, 1)

    def in_batches(self, api: LlmApi, size: int) -> Tensor:
        """Returns the rows of all positions, asked in batches of different prompts."""
        import torch  # noqa: PLC0415

        count = len(self._beginnings)
        order = sorted(range(count), key=lambda place: (place % TOKENS, place))
        rows: list[Tensor] = [torch.empty(0)] * count
        for first in range(0, count, size):
            places = order[first : first + size]
            asked = [self._beginnings[place] for place in places]
            answers = api.ask(asked, 1, return_generation_logits=True)
            for place, answer in zip(places, answers, strict=True):
                rows[place] = answer.generated[0]
        return torch.stack(rows)

    def identical(self, api: LlmApi, size: int) -> Tensor:
        """Returns the rows of all positions, each asked many times at once."""
        import torch  # noqa: PLC0415

        return torch.stack(
            [
                api.ask([ids] * size, 1, return_generation_logits=True)[-1].generated[0]
                for ids in self._beginnings
            ]
        )


def _prompts(job: dict[str, Any], vocabulary: int) -> dict[int, list[int]]:
    """Returns the prompts by number, and one that is as long as the engine's limits allow."""
    from _score_file import read_tokens  # noqa: PLC0415

    limits, tokens = job["limits"], read_tokens(Path(job["tokens"]), vocabulary)
    room = min(int(limits["max_input_len"]), int(limits["max_seq_len"]) - 1) - TOKENS
    if room < 2:  # noqa: PLR2004 - something to read, and something to choose
        raise Refusal(
            "engine-limit", "the engine's limits leave no room for a probe", actual=room,
            expected=f"max_input_len of {TOKENS + 2} or more",
        )  # fmt: skip
    longest = min(int(job["longest"]), room)
    found = {one: list(tokens.ids[one][:longest]) for one in tokens.chosen(job["prompts"])}
    filled = [token for ids in tokens.ids for token in ids][:room]
    return {**found, LONG: filled} if len(filled) > longest else found


def _require_whole(made: Sequence[Answer]) -> None:
    for answer in made:
        if len(answer.ids) != TOKENS or len(answer.generated) != TOKENS:
            raise Refusal(
                "unexpected-output", "a continuation has another length than was asked for",
                expected=TOKENS, actual=len(answer.ids),
            )  # fmt: skip


def _rungs(api: LlmApi, asked: _Asked, max_batch: int) -> Iterator[tuple[str, Tensor]]:
    import torch  # noqa: PLC0415

    yield "base", asked.one_by_one(api)
    yield "decode-1", torch.cat([answer.generated for answer in asked.made])
    for size in BATCHES:
        if size <= min(max_batch, len(asked.whole)):
            print(f"progress 0/0 batch {size}", flush=True)
            yield f"batch-{size}", asked.in_batches(api, size)
    if max_batch > 1:
        yield f"batch-{max_batch}-identical", asked.identical(api, max_batch)


def _stop(api: LlmApi, prompts: Prompts, made: Sequence[Answer]) -> dict[str, Any]:
    """Asks continuations to end where they are known to come by a token for the first time."""
    wrong = []
    for ids, answer in zip(prompts, made, strict=True):
        if answer.finish != "length":
            wrong.append(f"{TOKENS} tokens asked for and given, finish reason {answer.finish}")
        said = list(answer.ids)
        place = next((at for at in range(1, TOKENS) if said[at] not in said[:at]), 0)
        token, before = said[place], said[:place]
        (stopped,) = api.ask([ids], TOKENS, stop_token_ids=[token])
        if (list(stopped.ids), stopped.finish, stopped.stopped_by) != (before, "stop", token):
            wrong.append(
                f"stop token {token} after {place} tokens: {len(stopped.ids)} tokens, finish "
                f"reason {stopped.finish}, stop reason {stopped.stopped_by}"
            )
        (ended,) = api.ask([ids], TOKENS, end_id=token, ignore_eos=False)
        # releases differ in whether the end of text itself is among the ids
        if ended.finish != "stop" or list(ended.ids) not in (before, [*before, token]):
            wrong.append(
                f"end of text {token} after {place} tokens: {len(ended.ids)} tokens, finish "
                f"reason {ended.finish}"
            )
    return {"asked": len(made), "wrong": wrong}


def _chosen(made: Sequence[Answer]) -> dict[str, Any]:
    """Holds the tokens that were generated against the logits that came with them.

    Logits of another position, or from before what changed them, do not choose these tokens.
    """
    wrong = []
    for number, answer in enumerate(made):
        for step, token in enumerate(answer.ids):
            row = answer.generated[step]
            best = float(row.max())
            if not float(row[token]) >= best - TIE * max(abs(best), 1.0):  # NaN is wrong, too
                wrong.append(
                    f"continuation {number}, token {step}: {token} was generated, the logits say"
                    f" {int(row.argmax())}"
                )
                break
    return {"asked": len(made), "wrong": wrong}


def _arrays(
    rungs: dict[str, Tensor], top_k: int, prompts: int
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    import numpy as np  # noqa: PLC0415

    said = {name: rows.log_softmax(dim=-1) for name, rows in rungs.items()}
    best = said.pop("base").topk(top_k, dim=-1)
    arrays: dict[str, Any] = {"top_logprobs": best.values.numpy()}
    ladders: dict[str, list[str]] = {}
    for name, rows in said.items():
        ladders.setdefault(name.split("-", 1)[0], []).append(name)
        arrays[name] = rows.gather(1, best.indices).numpy()
        arrays[f"finite_{name}"] = rungs[name].isfinite().all(dim=-1).numpy().astype(np.uint8)
    arrays["offsets"] = np.arange(prompts + 1, dtype=np.int64) * TOKENS
    return arrays, ladders


def _write(
    output: Path,
    arrays: dict[str, Any],
    ladders: dict[str, list[str]],
    prompts: list[int],
    said: dict[str, dict[str, Any]],
) -> None:
    from _score_file import write_arrays  # noqa: PLC0415

    metadata = {
        "schema": SCHEMA, "ladders": json.dumps(ladders), "prompts": json.dumps(prompts),
        "offers": json.dumps(OFFERS), **{name: json.dumps(one) for name, one in said.items()},
    }  # fmt: skip
    write_arrays(output, arrays, metadata)


if __name__ == "__main__":
    main(run)
