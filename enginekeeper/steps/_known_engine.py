"""A loaded engine of which one linear at a time is asked, through its own compiled layers.

What a linear answers is seen after what the layer does to it next: values are rounded where the
cache is, and where the linear behind rounds what it reads. Whatever is expected of a linear goes
the same way: every question here comes with how an expected answer would be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from _checkpoint import plan_checkpoint
from _decoder_layer import CACHE_TYPES
from _engine import SLOT_STEP, Engine
from _fake_quant import E2M1_MAX, E4M3_MAX, INT8_MAX, fp8_static, int8_static
from _known_weights import moved, silent, telling
from _linear import linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from _linear_formats import LinearFormat

    Tensor = torch.Tensor
    Tensors = dict[str, Tensor]

QUIET = 2.0**-24
"""States are made so small that nothing of them is seen beside what a linear adds to them. The
norms do not notice: epsilon is made smaller with them, and all of it is a power of two."""

REACH = {"fp8_static": E4M3_MAX, "int8_static": INT8_MAX, "nvfp4": E2M1_MAX * E4M3_MAX}
"""The largest input that an activation scale of 1 keeps."""

CACHED = {"fp8": (fp8_static, E4M3_MAX), "int8": (int8_static, INT8_MAX)}
"""How a rounded cache rounds, and the largest value that a scale of 1 keeps."""


@dataclass(frozen=True)
class Part:
    """Some outputs of a linear: how the engine is asked, and how an answer of it would be seen."""

    ask: Callable[[], Tensor]
    seen: Callable[[Tensor], Tensor]
    """Takes all outputs that the linear should have; what rounds some looks at others, too."""


class KnownEngine(Engine):
    """An engine whose layers answer what one of their linears answered.

    States are (prompts, tokens, hidden); every question goes to one graph, prefill or decode.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._plan = plan_checkpoint(directory)

    def qkv(self, number: int, entry: str, states: Tensor, largest: float) -> Iterator[Part]:
        """Asks for queries, keys and values, each in the place of values.

        A token that sees only itself gives its value on as it is, whatever its query and key.
        """
        config, weights = self.config, self._layer_weights[number]
        layout, behind = self._layout(number, "qkv"), self._layout(number, "dense")
        size, groups = config.head_size, config.heads // config.kv_heads
        width, values = config.kv_heads * size, (config.heads + config.kv_heads) * size
        first = [head * groups * size + at for head in range(config.kv_heads) for at in range(size)]
        reader = _reading(behind, weights["dense"], largest)
        cached, vectors = self._cached(number, largest)
        for start in range(0, values + width, width):
            order = torch.arange(values + width)
            order[values:] = torch.arange(start, start + width)
            rows = moved(layout, weights["qkv"], order)
            for block in range(0, width, config.hidden):
                columns = first[block : block + config.hidden]
                known, count = telling(behind, reader, columns), len(columns)
                given = {"qkv": rows, "dense": known, "vectors": vectors}
                tell = partial(_read_by, behind, known, count)
                yield Part(
                    partial(self._answer, number, entry, states, count, **given),
                    partial(self._attended, tell, cached, start),
                )

    def gated(
        self, number: int, entry: str, states: Tensor, single: tuple[str, int], largest: float
    ) -> Iterator[Part]:
        """Asks for what `fc` or `gate` answers, the other one being a single input of its own."""
        role, column = single
        weights, other = self._layer_weights[number], {"fc": "gate", "gate": "fc"}[role]
        behind, count = self._layout(number, "proj"), self.config.intermediate
        reader = _reading(behind, weights["proj"], largest)
        for start in range(0, count, self.config.hidden):
            columns = range(start, min(start + self.config.hidden, count))
            known = telling(behind, reader, columns)
            alone = self.single(number, other, column)
            given = {role: weights[role], other: alone, "proj": known}
            yield Part(
                partial(self._answer, number, entry, states, len(columns), **given),
                partial(_read_by, behind, known, len(columns)),
            )

    def single(self, number: int, role: str, column: int) -> Tensors:
        """Returns weights of `fc` or `gate` every output of which is one input."""
        tensors = self._layer_weights[number][role]
        return telling(self._layout(number, role), tensors, [column] * self.config.intermediate)

    def picked(self, number: int, role: str, column: int, normed: Tensor) -> Tensor:
        """Returns what such a linear answers, computed here."""
        known = self.single(number, role, column)
        return linear(normed, self._layout(number, role), known)

    def behind(self, number: int, entry: str, states: Tensor, role: str) -> tuple[Tensor, Tensor]:
        """Returns what `dense` or `proj` reads, and what it answers.

        Where it rounds, what is returned is what it multiplies: scaled by its vector, and rounded.
        """
        weights, layout = self._layer_weights[number], self._layout(number, role)
        config = self.config
        inputs = {"dense": config.heads * config.head_size, "proj": config.intermediate}[role]
        before = ("qkv",) if role == "dense" else ("fc", "gate")
        given = {name: weights[name] for name in before}
        rounds = self.rounds(number, role)
        reader = weights[role] if rounds else _reading(layout, weights[role], 1.0)
        read = []
        for start in range(0, inputs, config.hidden):
            columns = range(start, min(start + config.hidden, inputs))
            known = telling(layout, reader, columns)
            asked = {**given, role: known}
            read.append(self._answer(number, entry, states, len(columns), **asked))
        asked = {**given, role: weights[role]}
        said = self._answer(number, entry, states, config.hidden, **asked)
        return torch.cat(read, dim=-1), said

    def rounds(self, number: int, role: str) -> bool:
        """Says whether a linear rounds what it reads."""
        return self._layout(number, role).activation is not None

    def _attended(
        self,
        tell: Callable[[Tensor], Tensor],
        cached: Callable[[Tensor], Tensor],
        start: int,
        outputs: Tensor,
    ) -> Tensor:
        """Returns what is told of outputs in the place of values, after the cache."""
        heads, size = self.config.kv_heads, self.config.head_size
        values = cached(outputs[..., start : start + heads * size]).unflatten(-1, (heads, size))
        return tell(values.repeat_interleave(self.config.heads // heads, dim=-2).flatten(-2))

    def _layout(self, number: int, role: str) -> LinearFormat:
        return self._plan.layers[number].linears[role].layout

    def _cached(
        self, number: int, largest: float
    ) -> tuple[Callable[[Tensor], Tensor], Tensors | None]:
        """Returns how the cache rounds values of that size, and the vectors that make it do so."""
        kind = self._plan.layers[number].signature["kv_cache"]
        if kind not in CACHED:
            return (lambda values: values), None
        rounding, reach = CACHED[kind]
        scale = torch.tensor([largest / reach])
        vectors = {**self._layer_weights[number]["vectors"], "v_scale": scale, "k_scale": scale}
        return partial(rounding, scale=scale), vectors

    def _answer(
        self, number: int, entry: str, states: Tensor, count: int, **given: Tensors | None
    ) -> Tensor:
        """Returns the first outputs of what a layer adds to states, all other linears silent."""
        weights = {
            role: tensors if role == "vectors" else silent(tensors)
            for role, tensors in self._layer_weights[number].items()
        } | {role: tensors for role, tensors in given.items() if tensors is not None}
        x = (states * QUIET).to(torch.float32)
        if entry == "decode":
            x = x.reshape(-1, 1, x.shape[-1])
        batch, tokens, _ = x.shape
        slots = -(-tokens // SLOT_STEP) * SLOT_STEP
        mask = torch.full((batch, 1, tokens, slots), float("-inf"))
        mask.diagonal(dim1=2, dim2=3).zero_()
        shape = (batch, self.config.kv_heads, slots, self.config.head_size)
        kind = CACHE_TYPES[self._plan.layers[number].signature["kv_cache"]]
        said = self._graphs[self.description["layers"][number], entry](
            x,
            (torch.ones(batch, 1, tokens, shape[3]), torch.zeros(batch, 1, tokens, shape[3])),
            torch.arange(tokens),
            mask,
            (torch.zeros(shape).to(kind), torch.zeros(shape).to(kind)),
            self._epsilon * QUIET**2,
            weights,
        )
        return (said - x)[..., :count].reshape(*states.shape[:2], count)


def _reading(layout: LinearFormat, tensors: Mapping[str, Tensor], largest: float) -> Tensors:
    """Returns a linear's tensors so that it rounds inputs up to that size as finely as it can."""
    found = dict(tensors)
    if layout.prequant:
        found["prequant_scaling_factor"] = torch.ones_like(tensors["prequant_scaling_factor"])
    if layout.activation in REACH:
        scale = tensors["activation_scaling_factor"]
        found["activation_scaling_factor"] = torch.full_like(
            scale, largest / REACH[layout.activation]
        )
    return found


def _read_by(layout: LinearFormat, known: Tensors, count: int, inputs: Tensor) -> Tensor:
    """Returns what a linear tells of its inputs: rounded as it rounds them."""
    return linear(inputs, layout, known)[..., :count]
