"""The step `probe_linears`: does each linear of an engine multiply as its checkpoint says?

Job: as `probe_layers`. The engine's compiled layers are given known weights (`_known_weights`) in
the place of all linears but one, the activations that the checkpoint twin has there, and attention
that sees nothing but its own token: so the layer's answer is what that linear made of its input.
Every layer is asked by its graph of prefill; by that of decode, which multiplies by other code, one
layer of each graph and the last. The head is given states, and asked for logits.

The file, all float64 [parts, prompts]: `apart`, the squared distance of the answers from the
twin's; `floor`, the same of the twin's with noise of float32 size; `size`, the square of the
twin's; `broken`, how many tokens have an answer that is not finite; and [parts]: `row`, the output
that is furthest away, and `row_apart`, by how much, squared, of its size (or of the mean output's).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _layer_probe import require_layers
from _step import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from _known_engine import KnownEngine, Part
    from _twin import LoadedModel

    Tensor = torch.Tensor
    Noise = Callable[[Tensor], Tensor]

SCHEMA = "1"
ENTRIES = ("prefill", "decode")

TOKENS = 8
"""Of each prompt, the last ones that are asked for: every one is a row of each multiplication."""

HEAD = "head"

SMALLEST = 1e-12
"""The least that an answer is taken to reach to: a linear of zeros has no scale."""


@dataclass(frozen=True)
class Answer:
    """What a linear said, what it should, and what it should with noise: (..., outputs)."""

    said: Tensor
    should: Tensor
    noisy: Tensor


@dataclass(frozen=True)
class Given:
    """What one layer of the twin was given: (prompts, tokens, hidden)."""

    states: Tensor
    """Before the layer."""
    middle: Tensor
    """Between attention and the rest."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Asks every linear and returns how many there are."""
    import numpy as np  # noqa: PLC0415 - torch takes seconds to import
    import torch  # noqa: PLC0415
    from _known_engine import KnownEngine  # noqa: PLC0415
    from _score_file import read_tokens, write_arrays  # noqa: PLC0415
    from _twin import load_model  # noqa: PLC0415

    engine, loaded = KnownEngine(Path(job["engine"])), load_model(Path(job["twin"]))
    layers = loaded.model.model.layers
    require_layers(engine.config.layers, len(layers))
    tokens = read_tokens(Path(job["tokens"]), engine.config.vocabulary)
    chosen = tokens.chosen(job["prompts"])
    prompts = [tokens.ids[number][: int(job["longest"])] for number in chosen]
    noise = _noise(float(job["nudge"]["relative"]), int(job["nudge"]["seed"]))
    twice = _one_of_each(engine.description["layers"])
    columns: dict[str, Any] = {}
    with torch.no_grad():
        given, last = _given(loaded, prompts)
        for number, (layer, states) in enumerate(zip(layers, given, strict=True)):
            print(f"progress {number}/{len(layers)} linears", flush=True)
            for entry in ENTRIES if number in twice else ENTRIES[:1]:
                of_layer = Asked(engine, number, entry, layer, states, noise)
                columns |= {
                    f"layers.{number}.{role} ({entry})": _compared(answer)
                    for role, answer in of_layer.answers()
                }
        columns[HEAD] = _compared(_of_head(engine, loaded, last, noise))
    arrays = {
        name: np.stack([column[name] for column in columns.values()])
        for name in ("apart", "floor", "size", "broken", "row", "row_apart")
    }
    metadata = {
        "schema": SCHEMA, "parts": json.dumps(list(columns)), "prompts": json.dumps(chosen),
        "tokens": json.dumps([last.shape[1]] * len(prompts)),
    }  # fmt: skip
    write_arrays(Path(job["output"]), arrays, metadata)
    return {"parts": len(columns), "prompts": len(prompts)}


@dataclass(frozen=True)
class Asked:
    """One layer, asked by one of its graphs."""

    engine: KnownEngine
    number: int
    entry: str
    layer: Any
    """The twin's."""
    given: Given
    noise: Noise

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Asks every linear of the layer."""
        normed = self.layer.input_layernorm(self.given.states)
        yield "attention.qkv", self._seen(
            self._qkv(normed), self._qkv(self.noise(normed)),
            lambda most: self.engine.qkv(self.number, self.entry, self.given.states, most),
        )  # fmt: skip
        yield (
            "attention.dense",
            self._behind("dense", self.given.states, self.layer.self_attn.o_proj),
        )
        normed = self.layer.post_attention_layernorm(self.given.middle)
        column = int(self.layer.mlp.act_fn(normed).flatten(0, -2).median(dim=0).values.argmax())
        for role in ("fc", "gate"):
            yield f"mlp.{role}", self._seen(
                self._gated(role, column, normed), self._gated(role, column, self.noise(normed)),
                lambda most, role=role: self.engine.gated(
                    self.number, self.entry, self.given.middle, (role, column), most
                ),
            )  # fmt: skip
        yield "mlp.proj", self._behind("proj", self.given.middle, self.layer.mlp.down_proj)

    def _qkv(self, normed: Tensor) -> Tensor:
        import torch  # noqa: PLC0415

        attention = self.layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        return torch.cat([part(normed) for part in parts], dim=-1)

    def _gated(self, role: str, column: int, normed: Tensor) -> Tensor:
        """Returns the product of one linear with the single input that stands for the other."""
        mlp, engine, number = self.layer.mlp, self.engine, self.number
        if role == "fc":
            return mlp.act_fn(mlp.gate_proj(normed)) * engine.picked(number, "gate", column, normed)
        return mlp.act_fn(engine.picked(number, "fc", column, normed)) * mlp.up_proj(normed)

    def _seen(
        self, should: Tensor, other: Tensor, parts: Callable[[float], Iterator[Part]]
    ) -> Answer:
        """Compares what the engine's next linear tells of an answer with what it would tell."""
        import torch  # noqa: PLC0415

        noisy, said = self.noise(other), []
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for part in parts(max(float(should.abs().max()), SMALLEST)):
            said.append(part.ask())
            seen[0].append(part.seen(should))
            seen[1].append(part.seen(noisy))
        return Answer(torch.cat(said, -1), torch.cat(seen[0], -1), torch.cat(seen[1], -1))

    def _behind(self, role: str, states: Tensor, module: Any) -> Answer:  # noqa: ANN401
        """Asks the twin with what the engine read; where that was rounded, its weight alone."""
        from torch.nn.functional import linear  # noqa: PLC0415

        read, said = self.engine.behind(self.number, self.entry, states, role)
        answer = module
        if self.engine.rounds(self.number, role):
            answer = partial(linear, weight=module.weight, bias=module.bias)
        return Answer(said, answer(read), answer(self.noise(read)))


def _one_of_each(graphs: Sequence[str]) -> set[int]:
    """Returns the first layer of each graph, and the last layer of all."""
    return {graphs.index(one) for one in graphs} | {len(graphs) - 1}


def _noise(relative: float, seed: int) -> Noise:
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(seed)

    def disturb(values: Tensor) -> Tensor:
        return values * (1 + relative * torch.randn(values.shape, generator=generator))

    return disturb


def _of_head(engine: KnownEngine, loaded: LoadedModel, last: Tensor, noise: Noise) -> Answer:
    model = loaded.model
    normed = model.model.norm(last)
    said = engine.logits(last.flatten(0, 1)).unflatten(0, last.shape[:2])
    should = model.lm_head(normed)
    return Answer(said[..., : should.shape[-1]], should, noise(model.lm_head(noise(normed))))


def _given(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> tuple[list[Given], Tensor]:
    """Runs the prompts; returns what each layer, and the last norm, was given of their last tokens.

    As many of each, so that they are one batch.
    """
    import torch  # noqa: PLC0415

    model, count = loaded.model, min(TOKENS, *map(len, prompts))
    layers = model.model.layers
    found: list[list[list[Tensor]]] = [[[], []] for _ in layers]
    last: list[Tensor] = []

    def keep(into: list[Tensor]) -> Callable[..., None]:
        def before(_module: object, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            states = inputs[0] if inputs else named["hidden_states"]
            into.append(states[0, -count:].clone())

        return before

    hooks = [
        module.register_forward_pre_hook(keep(into), with_kwargs=True)
        for layer, places in zip(layers, found, strict=True)
        for module, into in zip((layer, layer.post_attention_layernorm), places, strict=True)
    ]
    hooks.append(model.model.norm.register_forward_pre_hook(keep(last), with_kwargs=True))
    try:
        for ids in prompts:
            model.model(
                torch.tensor([list(ids)]), past_key_values=loaded.new_cache(), use_cache=True
            )
    finally:
        for hook in hooks:
            hook.remove()
    return [Given(*map(torch.stack, places)) for places in found], torch.stack(last)


def _compared(answer: Answer) -> dict[str, Any]:
    """Returns the numbers of one part, by prompt, and the output that is furthest away."""
    import torch  # noqa: PLC0415

    said, should = answer.said.to(torch.float64), answer.should.to(torch.float64)
    sound = said.isfinite().all(dim=-1, keepdim=True)
    apart = (said - should).where(sound, 0.0).square()
    rows, sizes = apart.sum(dim=(0, 1)), should.square().sum(dim=(0, 1))
    shares = rows / sizes.clamp(min=float(sizes.mean()) or 1.0)
    row = int(shares.argmax())
    noise = (answer.noisy.to(torch.float64) - should).square()
    by_prompt = {"apart": apart, "floor": noise, "size": should.square()}
    return {
        **{name: values.sum(dim=(1, 2)).numpy() for name, values in by_prompt.items()},
        "broken": (~sound).sum(dim=(1, 2)).to(torch.float64).numpy(),
        "row": float(row),
        "row_apart": float(shares[row]),
    }


if __name__ == "__main__":
    main(run)
