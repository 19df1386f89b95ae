"""A Triton Inference Server that this step started, and its TensorRT-LLM model, in token ids.

It serves the model repository that `ek export triton` writes. It is asked by KServe's `infer` and
not by Triton's `generate`: NVIDIA's models behind that (`ensemble`, `tensorrt_llm_bls`) take and
give text, which names some tokens twice, and they are no part of an engine.

Written against the documented server and proved against a double of it; not run on a GPU.

Rules:

- it listens on this machine only, and ends with this step;
- one prompt in a request: prompts of different lengths make no tensor;
- every tensor that comes back is held against the shape that it says it has;
- what Triton does not give is asked for nowhere, and what is missing is said.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _local_server import ENVELOPE, LocalServer, free_port
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Prompts = Sequence[Sequence[int]]

_PER_NUMBER = 32
"""Bytes of JSON that a number of an answer may take."""


@contextmanager
def serving(
    command: list[str], repository: Mapping[str, str], model: str
) -> Iterator[TritonServed]:
    """Writes a model repository, serves it, and gives the server when the model is ready."""
    place = Path("repository").absolute()
    for name, text in repository.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    port = free_port()
    words = [
        f"--model-repository={place}", "--http-address=127.0.0.1", f"--http-port={port}",
        "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    with subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL) as child:
        try:
            server = LocalServer("Triton", port)
            server.wait(child, f"/v2/models/{model}/ready")
            yield TritonServed(server, model)
        finally:
            child.kill()


class TritonServed:
    """One model of one server."""

    def __init__(self, server: LocalServer, model: str) -> None:
        self._server = server
        self._model = model

    def complete(
        self,
        prompts: Prompts,
        tokens: int,
        *,
        return_context_logits: bool = False,
        logprobs: int | None = None,
    ) -> list[dict[str, Any]]:
        """Continues prompts greedily, past any end of text; returns their choices in order.

        No end is named, so none is looked for. `logprobs` may be 1: of what was chosen.
        """
        choices = []
        for ids in prompts:
            found = self._infer(ids, tokens, context=return_context_logits, said=bool(logprobs))
            choice: dict[str, Any] = {"token_ids": _generated(found, tokens)}
            if logprobs:
                choice["logprobs"] = {"token_logprobs": _flat(found, "output_log_probs", tokens)}
            if return_context_logits:
                choice["context_logits"] = found["context_logits"][0].tolist()
            choices.append(choice)
        return choices

    def _infer(
        self, ids: Sequence[int], tokens: int, *, context: bool, said: bool
    ) -> dict[str, NDArray[Any]]:
        inputs = [
            _tensor("input_ids", "INT32", list(ids)),
            _tensor("input_lengths", "INT32", [len(ids)]),
            _tensor("request_output_len", "INT32", [tokens]),
            _tensor("runtime_top_k", "INT32", [1]),
            _tensor("exclude_input_in_output", "BOOL", [True]),
        ]
        wanted = ["output_ids", "sequence_length"]
        for asked, option, output in (
            (said, "return_log_probs", "output_log_probs"),
            (context, "return_context_logits", "context_logits"),
        ):
            if asked:
                inputs.append(_tensor(option, "BOOL", [True]))
                wanted.append(output)
        request = {"inputs": inputs, "outputs": [{"name": name} for name in wanted]}
        numbers = tokens * 4 + (len(ids) * 300_000 if context else 0)
        path = f"/v2/models/{self._model}/infer"
        answer = self._server.post(path, request, ENVELOPE + numbers * _PER_NUMBER)
        found = {str(one["name"]): _array(one) for one in answer.get("outputs") or []}
        if missing := [name for name in wanted if name not in found]:
            raise Refusal(
                "unexpected-output", "Triton left out what was asked for",
                expected=", ".join(wanted), actual=f"no {', no '.join(missing)}",
            )  # fmt: skip
        return found


def _tensor(name: str, datatype: str, row: list[Any]) -> dict[str, Any]:
    """Returns a tensor of one request: the batch is the first dimension."""
    return {"name": name, "datatype": datatype, "shape": [1, len(row)], "data": row}


def _array(output: Mapping[str, Any]) -> NDArray[Any]:
    data, shape = np.asarray(output.get("data")), output.get("shape")
    if not isinstance(shape, list) or data.dtype.kind not in "if" or data.size != np.prod(shape):
        raise Refusal(
            "unexpected-output", "a tensor of Triton's has another size than its shape",
            where=output.get("name"), expected=shape, actual=list(data.shape),
        )  # fmt: skip
    return data.reshape(shape)


def _generated(found: Mapping[str, NDArray[Any]], tokens: int) -> list[int]:
    """Returns the ids that were generated; refuses a server that stopped before it was told to."""
    length = int(found["sequence_length"].reshape(-1)[0])
    if length != tokens:
        raise Refusal(
            "unexpected-output", "a continuation has another length than was asked for",
            expected=tokens, actual=length,
        )  # fmt: skip
    return [int(one) for one in _flat(found, "output_ids", tokens)]


def _flat(found: Mapping[str, NDArray[Any]], name: str, tokens: int) -> list[float]:
    """Returns the first beam of an output: a number for each token that was generated."""
    rows = found[name]
    if rows.ndim != 3 or rows.shape[:2] != (1, 1) or rows.shape[2] < tokens:  # noqa: PLR2004
        raise Refusal(
            "unexpected-output", "an output of Triton's has another shape", where=name,
            expected=[1, 1, tokens], actual=list(rows.shape),
        )  # fmt: skip
    return [float(one) for one in rows[0, 0, :tokens]]
