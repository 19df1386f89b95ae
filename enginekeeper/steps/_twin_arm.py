"""A transformers model, executed eagerly, as an arm of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from _twin import LoadedModel
    from transformers import DynamicCache

    Tensor = torch.Tensor
    Prompts = Sequence[Sequence[int]]


MAX_BATCH = 64
"""Nothing limits a twin's batch but memory."""


class TransformersArm:
    """A transformers model, executed eagerly, as an arm of the comparison."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._new_cache = loaded.new_cache
        self.name = loaded.arm
        self.vocabulary = loaded.model.config.vocab_size
        self.max_batch = MAX_BATCH

    def states(self, prompts: Prompts) -> list[Tensor]:
        """Runs the model over whole prompts, left-padded to the longest."""
        ids, pads = left_padded(prompts)
        states = self.forward(ids, pads, self._new_cache())
        return [row[-len(ids) :] for row, ids in zip(states, prompts, strict=True)]

    def logits(self, states: Tensor) -> Tensor:
        """Runs the output projection."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            return self._model.lm_head(states)

    def decode(self, prompts: Prompts, tokens: int) -> TransformersDecoding:
        """Runs the model over prompts and keeps its cache, which grows by itself."""
        del tokens
        cache = self._new_cache()
        ids, pads = left_padded(prompts)
        self.forward(ids, pads, cache)
        return TransformersDecoding(self, pads, cache)

    def forward(self, ids: Tensor, pads: Tensor, cache: DynamicCache) -> Tensor:
        """Feeds tokens after what the cache holds, with each row's own positions."""
        import torch  # noqa: PLC0415

        used = cache.get_seq_length()
        slots = torch.arange(used + ids.shape[1])
        with torch.no_grad():
            return self._model.model(
                input_ids=ids,
                attention_mask=(slots[None] >= pads[:, None]).long(),
                position_ids=(slots[None, used:] - pads[:, None]).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state


class TransformersDecoding:
    """A batch of sequences continued with `past_key_values`."""

    def __init__(self, arm: TransformersArm, pads: Tensor, cache: DynamicCache) -> None:
        self._arm = arm
        self._pads = pads
        self._cache = cache

    def step(self, tokens: Tensor) -> Tensor:
        """Runs one token per row."""
        states = self._arm.forward(tokens[:, None], self._pads, self._cache)
        return self._arm.logits(states[:, -1])


def left_padded(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Returns ids (rows, longest) and how many of each row's first ids are padding."""
    import torch  # noqa: PLC0415

    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor([longest - len(prompt) for prompt in prompts])
