"""The step `score_edits`: one engine scores one edit of its checkpoint after another.

Job: `{"engine", "tokens", "targets", "top_k", "desk", "batch_size", "threads"?, "write_logits"?,
"source_logits"?}`. The step says `ask N` and waits for `DESK/answer.json`:
`{"ask": N, "stop": true}`, or `{"ask": N, "overlay"?, "dropped", "prompts", "output",
"chunk_tokens"?, "batch_size"?, "targets"?, "layers"?}`. Without an overlay the engine is scored as
it was built; with targets these count instead of the job's. With `layers`, a job of `probe_layers`
without engine and tokens, the engine is asked layer by layer instead, and `output` is of that
step. What came of it is in `DESK/N.json`: a refusal, or what was changed; the score file is at
`output`, with `logit_cosine` and `logit_distance` to the source's logits if there are any: the
cosine, and the Euclidean distance over the source's norm, of each position. `write_logits` is where
the logits of the engine as it was built go first, float16 in the order of the suite: a source for
others.

A process of its own holds the engine: weights go into compiled graphs, and what an edit makes of
them may end it.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _step import Refusal, main

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from _edited_engine import EditedEngine
    from _score_file import Arrays
    from _scoring import ScoreJob
    from probe_layers import LayerProbe

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

POLL = 0.005
"""Seconds between two looks for an answer."""

SOURCE_LOGITS = "logits"


class BesideSource:
    """An arm that compares its logits with the source's, position by position."""

    name = "engine"

    def __init__(
        self, engine: EditedEngine, chunk_tokens: int | None, source: Source | None
    ) -> None:
        from _engine_arm import EngineArm  # noqa: PLC0415 - torch

        self._arm = EngineArm(engine, chunk_tokens)
        self._source = source
        self.vocabulary, self.max_batch = self._arm.vocabulary, self._arm.max_batch
        self.rows: list[Tensor] = []

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Runs prefill."""
        return self._arm.states(prompts)

    def logits(self, states: Tensor) -> Tensor:
        """Runs the head, and notes how far its logits are from the source's."""
        logits = self._arm.logits(states)
        if self._source is not None:
            self.rows.append(self._source.next_rows(logits))
        return logits


class Source:
    """The source's logits."""

    def __init__(self, logits: Tensor, offsets: np.ndarray) -> None:
        self._logits, self._offsets = logits, offsets
        self._pending = np.zeros(0, np.int64)

    def begin(self, prompts: Sequence[int]) -> None:
        """Says of which prompts the next rows are."""
        spans = [np.arange(self._offsets[one], self._offsets[one + 1]) for one in prompts]
        self._pending = np.concatenate(spans)

    def next_rows(self, logits: Tensor) -> Tensor:
        """Returns cosine and relative distance of the next rows of logits."""
        import torch  # noqa: PLC0415

        rows, self._pending = self._pending[: len(logits)], self._pending[len(logits) :]
        ours = self._logits[torch.from_numpy(rows)].to(torch.float32)
        theirs = torch.nan_to_num(logits.to(torch.float32), nan=0.0, posinf=0.0, neginf=0.0)
        cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)
        distance = (theirs - ours).norm(dim=-1) / ours.norm(dim=-1)
        return torch.stack((cosine, distance), dim=-1)


class Desk:
    """Requests come in, answers go out, until the runner says stop."""

    def __init__(
        self, engine: EditedEngine, job: ScoreJob, source: Source | None, place: Path
    ) -> None:
        self._engine, self._job, self._source, self._place = engine, job, source, place
        self._asked = 0
        self._probe: tuple[dict[str, Any], LayerProbe] | None = None

    def serve(self) -> int:
        """Answers requests to the end, and returns how many there were."""
        while True:
            self._asked += 1
            request = self._next()
            if request.get("stop"):
                return self._asked - 1
            started = time.process_time()
            try:
                said = self._answer(request)
            except Refusal as refusal:
                said = {"refused": refusal.as_dict()}
            self._say({**said, "seconds": round(time.process_time() - started, 3)})

    def _next(self) -> dict[str, Any]:
        print(f"ask {self._asked}", flush=True)
        path = self._place / "answer.json"
        while True:
            if path.is_file():
                request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                if request["ask"] == self._asked:
                    return request
            time.sleep(POLL)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = {"changed": [], "first_layer": None}
        if request.get("overlay"):
            edit = self._engine.edit(Path(request["overlay"]), request["dropped"])
            said = {"changed": list(edit.changed), "first_layer": edit.first_layer}
            if not edit.changed:
                return said  # the very numbers of the engine as it was built
        else:
            self._engine.restore()
        if request.get("layers"):
            self._ask_layers(request)
        else:
            self._score(request)
        return said

    def _ask_layers(self, request: dict[str, Any]) -> None:
        """Asks layer by layer; what the last twin answered is kept, edit after edit."""
        from probe_layers import LayerProbe  # noqa: PLC0415 - torch

        told = request["layers"]
        if self._probe is None or self._probe[0] != told:
            self._probe = None  # the answers of two twins are not held at once
            layers = len(self._engine.description["layers"])
            self._probe = (told, LayerProbe(told, self._job.tokens, layers))
        self._probe[1].write(self._engine, Path(request["output"]))

    def _score(self, request: dict[str, Any]) -> None:
        from _score_file import read_targets, write_scores  # noqa: PLC0415 - torch
        from _scoring import empty_columns, nothing_continued, score_prompts  # noqa: PLC0415

        job, chosen = self._job, request["prompts"]
        if request.get("targets"):
            positions = int(job.tokens.offsets[-1])
            ids = read_targets(request["targets"], positions, self._engine.config.vocabulary)
            job = replace(job, targets=ids)
        arm = BesideSource(self._engine, request.get("chunk_tokens"), self._source)
        columns = empty_columns(job)
        size = int(request.get("batch_size") or job.batch_size)
        for first in range(0, len(chosen), size):
            batch = chosen[first : first + size]
            if self._source is not None:
                self._source.begin(batch)
            score_prompts(arm, job, columns, batch)
        starts = job.tokens.offsets
        rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in chosen])
        arrays: Arrays = {name: array[rows] for name, array in columns.arrays.items()}
        lengths = [starts[one + 1] - starts[one] for one in chosen]
        arrays["offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
        ids, logprobs = nothing_continued(job)
        arrays["greedy_ids"], arrays["greedy_logprobs"] = ids[chosen], logprobs[chosen]
        if arm.rows:
            beside = np.concatenate([part.numpy() for part in arm.rows])
            arrays["logit_cosine"] = np.ascontiguousarray(beside[:, 0])
            arrays["logit_distance"] = np.ascontiguousarray(beside[:, 1])
        meta = {"batch_size": size, "top_k": job.top_k, "prompts": list(chosen)}
        write_scores(Path(request["output"]), arrays, arm="engine", meta=meta)

    def _say(self, document: dict[str, Any]) -> None:
        path = self._place / f"{self._asked}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Loads the engine and serves the desk."""
    import torch  # noqa: PLC0415 - seconds to import
    from _edited_engine import EditedEngine  # noqa: PLC0415
    from _scoring import parse_job  # noqa: PLC0415
    from probe_layers import fed  # noqa: PLC0415

    if job.get("threads"):
        torch.set_num_threads(int(job["threads"]))
    engine = fed(EditedEngine)(Path(job["engine"]))
    greedy = {"prefix": 2, "tokens": 1}  # one step that is never made: `_rounds` marks it so
    request = parse_job({**job, "greedy": greedy}, engine.config.vocabulary)
    if job.get("write_logits"):
        _write_logits(engine, request, Path(job["write_logits"]))
    source = _source(job["source_logits"], request) if job.get("source_logits") else None
    return {"requests": Desk(engine, request, source, Path(job["desk"])).serve()}


def _write_logits(engine: EditedEngine, request: ScoreJob, path: Path) -> None:
    import torch  # noqa: PLC0415
    from _engine_arm import EngineArm  # noqa: PLC0415
    from _score_file import write_arrays  # noqa: PLC0415

    arm, offsets = EngineArm(engine), request.tokens.offsets
    logits = torch.zeros((int(offsets[-1]), arm.vocabulary), dtype=torch.float16)
    for number, ids in enumerate(request.tokens.ids):
        rows = slice(int(offsets[number]), int(offsets[number + 1]))
        logits[rows] = arm.logits(arm.states([ids])[0][:-1]).to(torch.float16)
    write_arrays(path, {SOURCE_LOGITS: logits.numpy()}, {})


def _source(path: str, request: ScoreJob) -> Source:
    import torch  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    return Source(torch.from_numpy(load_file(path)[SOURCE_LOGITS]), request.tokens.offsets)


if __name__ == "__main__":
    main(run)
