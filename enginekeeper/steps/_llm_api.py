"""The LLM API of TensorRT-LLM as scoring needs it: rows of logits for token ids, nothing else.

Written against the documented interface and proved against doubles of it; not run on a GPU.

Rules:

- no tokenizer: ids go in and ids come out;
- every request is greedy and ignores the end of text, so that runs of all arms compare;
- rows are cut to the model's vocabulary before anything is computed of them: padding rows of an
  output matrix have logits, too, and would take a share of the probability.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]

PAD = 0
"""Stands for padding and for an end of text that is ignored: a request has to name both."""


@dataclass(frozen=True)
class Answer:
    """What came of one prompt."""

    ids: tuple[int, ...]
    generated: Tensor | None
    """Logits (tokens, vocabulary) of what was generated, if they were asked for."""

    read: Tensor | None
    """Logits (prompt, vocabulary) of what was read, if they were asked for."""

    finish: str | None
    stopped_by: object


class LlmApi:
    """A model that the LLM API has loaded."""

    def __init__(self, api: dict[str, Any], vocabulary: int) -> None:
        """Loads it; `api` names the module and the arguments of its class."""
        module = importlib.import_module(api["module"])
        root = importlib.import_module("tensorrt_llm")
        _require_release(root, api["version"])
        arguments = dict(api["arguments"])
        if "kv_cache_config" in arguments:
            llmapi = importlib.import_module("tensorrt_llm.llmapi")
            arguments["kv_cache_config"] = llmapi.KvCacheConfig(**arguments["kv_cache_config"])
        self._sampling = root.SamplingParams
        self._llm = module.LLM(**arguments)
        self._vocabulary = vocabulary

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Gives the GPU back."""
        self._llm.shutdown()

    def ask(self, prompts: Prompts, tokens: int, **wanted: Any) -> list[Answer]:  # noqa: ANN401
        """Continues prompts by so many tokens; `wanted` goes into their SamplingParams."""
        parameters = self._sampling(
            **{
                "max_tokens": tokens, "end_id": PAD, "pad_id": PAD, "ignore_eos": True, "top_k": 1,
                **wanted,
            }
        )  # fmt: skip
        outputs = self._llm.generate(
            [list(ids) for ids in prompts], sampling_params=parameters, use_tqdm=False
        )
        return [self._answer(one, wanted) for one in outputs]

    def _answer(self, output: Any, wanted: dict[str, Any]) -> Answer:  # noqa: ANN401
        best = output.outputs[0]
        read = output.context_logits if wanted.get("return_context_logits") else None
        made = best.generation_logits if wanted.get("return_generation_logits") else None
        if (wanted.get("return_generation_logits") and made is None) or (
            wanted.get("return_context_logits") and read is None
        ):
            raise Refusal(
                "unexpected-output", "the LLM API gave no logits, which it was asked for",
                actual=sorted(wanted),
            )  # fmt: skip
        return Answer(
            ids=tuple(best.token_ids),
            generated=self._rows(made),
            read=self._rows(read),
            finish=best.finish_reason,
            stopped_by=best.stop_reason,
        )

    def _rows(self, logits: Tensor | None) -> Tensor | None:
        if logits is None:
            return None
        rows = logits.detach().to("cpu", torch.float32)
        rows = rows.reshape(-1, rows.shape[-1])
        if rows.shape[-1] < self._vocabulary:
            raise Refusal(
                "vocabulary-mismatch", "the engine's logits are fewer than the model's tokens",
                expected=f"{self._vocabulary} or more", actual=rows.shape[-1],
            )  # fmt: skip
        return rows[:, : self._vocabulary]


def _require_release(root: Any, version: str) -> None:  # noqa: ANN401 - a module without types
    if root.__version__ != version:
        raise Refusal(
            "wrong-release", "the toolchain is of another release",
            actual=root.__version__, expected=version,
            remedy="resolve its lock again: enginekeeper toolchain lock NAME",
        )  # fmt: skip
