"""The step `sensitivities`: how the twin's log-probabilities move with the gain of each tensor.

Job: `{"twin", "tokens", "targets": {"twin": score file}, "prompts": [numbers], "output"}`. One
forward pass per atom: the output of one linear or norm without its bias is multiplied with 1 +
STEP, the angles are those of a rope base 1 + STEP times the twin's, or eps is doubled. What is
written is the difference of the log-probabilities at the twin's best tokens over the step, by
finite differences, float32 [atoms, positions, best tokens].

A tensor of layer n changes nothing before it: its pass begins there, with the states the
undisturbed pass had.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _step import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from _twin import LoadedModel

    Tensor = torch.Tensor

SCHEMA = "1"

STEP = 0.01
"""Relative: large beside the noise of float32, small beside what makes a model nonlinear."""

ROWS = 256
"""Positions whose full log-softmax is held at once."""


class Passes:
    """Forward passes over one padded batch of prompts, from any layer on."""

    def __init__(
        self, loaded: LoadedModel, prompts: list[tuple[int, ...]], ids: np.ndarray
    ) -> None:
        import torch  # noqa: PLC0415

        self._model = loaded.model
        self._new_cache = loaded.new_cache
        self._layers = loaded.model.model.layers
        longest = max(map(len, prompts))
        pads = torch.tensor([longest - len(prompt) for prompt in prompts])
        slots = torch.arange(longest)
        self._mask = (slots[None] >= pads[:, None]).long()
        self._positions = (slots[None] - pads[:, None]).clamp(min=0)
        padded = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        self._lengths = [len(prompt) for prompt in prompts]
        self._ids = torch.from_numpy(ids)
        self._states: list[Tensor] = []
        with torch.no_grad():
            embedded = loaded.model.get_input_embeddings()(padded)
            with self._recording():
                self.undisturbed = self._logprobs(embedded)

    def from_layer(self, layer: int) -> Tensor:
        """Runs the layers from this one on, as they are now, and returns log-probabilities."""
        import torch  # noqa: PLC0415

        if layer == len(self._layers):
            layer -= 1  # the last norm and the head: from the last layer on is near enough
        self._model.model.layers = self._layers[layer:]
        try:
            with torch.no_grad():
                return self._logprobs(self._states[layer])
        finally:
            self._model.model.layers = self._layers

    def _logprobs(self, states: Tensor) -> Tensor:
        import torch  # noqa: PLC0415

        hidden = self._model.model(
            inputs_embeds=states,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._new_cache(),
            use_cache=True,
        ).last_hidden_state
        rows = torch.cat(
            [row[-length:-1] for row, length in zip(hidden, self._lengths, strict=True)]
        )
        parts = []
        for start in range(0, len(rows), ROWS):
            logits = self._model.lm_head(rows[start : start + ROWS]).to(torch.float32)
            wanted = self._ids[start : start + ROWS]
            parts.append(logits.log_softmax(dim=-1).gather(1, wanted))
        return torch.cat(parts)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Keeps what each layer is given."""

        def keep(_module: object, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            self._states.append(arguments[0] if arguments else named["hidden_states"])

        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the sensitivities and returns how many atoms there are."""
    import numpy as np  # noqa: PLC0415 - seconds to import, with torch
    from _score_file import read_targets, read_tokens, write_arrays  # noqa: PLC0415
    from _twin import load_model  # noqa: PLC0415

    loaded = load_model(Path(job["twin"]))
    vocabulary = loaded.model.config.vocab_size
    tokens = read_tokens(Path(job["tokens"]), vocabulary)
    chosen = tokens.chosen(job["prompts"])
    starts = tokens.offsets
    rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in chosen])
    best = read_targets(job["targets"], int(starts[-1]), vocabulary)["twin"][rows]
    passes = Passes(loaded, [tokens.ids[one] for one in chosen], best)
    names, columns = [], []
    every = list(atoms(loaded.model))
    for number, (name, layer, disturbed, step) in enumerate(every):
        print(f"progress {number}/{len(every)} {name}", flush=True)
        with disturbed:
            moved = passes.from_layer(layer)
        names.append(name)
        columns.append(((moved - passes.undisturbed) / step).numpy())
    metadata = {"schema": SCHEMA, "atoms": json.dumps(names), "prompts": json.dumps(chosen)}
    write_arrays(Path(job["output"]), {"sensitivities": np.stack(columns)}, metadata)
    return {"atoms": len(names), "positions": len(rows)}


def atoms(model: Any) -> Iterator[tuple[str, int, Any, float]]:  # noqa: ANN401 - transformers
    """Yields every atom: its name, the first layer it changes, how, and by how much."""
    import torch  # noqa: PLC0415

    last = len(model.model.layers)
    for name, module in model.named_modules():
        is_norm = name.endswith(("norm", "layernorm"))
        if isinstance(module, torch.nn.Linear) or is_norm:
            words = name.split(".")
            layer = int(words[2]) if words[:2] == ["model", "layers"] else last
            yield name, layer, _louder(module), STEP
    yield "rope base", 0, _turned(model.model.rotary_emb), STEP
    yield "rms_norm_eps", 0, _cruder(model), 1.0


@contextmanager
def _louder(module: Any) -> Iterator[None]:  # noqa: ANN401
    """Multiplies what a module's weight gives; a bias stays."""
    bias = getattr(module, "bias", None)

    def scale(_module: object, _inputs: object, output: Tensor) -> Tensor:
        return output + STEP * (output if bias is None else output - bias)

    hook = module.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _turned(rotary: Any) -> Iterator[None]:  # noqa: ANN401
    import torch  # noqa: PLC0415

    before = rotary.inv_freq
    steps = torch.arange(len(before), dtype=torch.float32) / len(before)
    rotary.inv_freq = before * (1.0 + STEP) ** -steps
    try:
        yield
    finally:
        rotary.inv_freq = before


@contextmanager
def _cruder(model: Any) -> Iterator[None]:  # noqa: ANN401
    norms = [one for one in model.modules() if hasattr(one, "variance_epsilon")]
    before = [norm.variance_epsilon for norm in norms]
    for norm in norms:
        norm.variance_epsilon *= 2.0
    try:
        yield
    finally:
        for norm, epsilon in zip(norms, before, strict=True):
            norm.variance_epsilon = epsilon


if __name__ == "__main__":
    main(run)
