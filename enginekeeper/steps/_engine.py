"""Runs a compiled engine: weights, key-value cache, prefill and decode.

Runs in a step process only: a compiled graph is native code and may take the process down.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from _checkpoint import open_checkpoint
from _decoder_layer import CACHE_TYPES
from _graphs import cpu_environment, graph_weights
from _rope import rotary_tables
from _step import Refusal
from torch._inductor import aoti_load_package

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Tensor = torch.Tensor

ENGINE_SCHEMA = 1
DESCRIPTION = "engine.json"
SLOT_STEP = 16
"""Cache lengths are rounded up to this, so that attention's blocks are whole."""

HEAD_ROWS = 256
"""Rows of logits made at once: 256 x 49,152 float32 are 50 MB."""


@dataclass
class Session:
    """A batch of sequences in progress: its cache and how far each row is padded on the left."""

    caches: list[tuple[Tensor, Tensor]]
    padding: Tensor
    """Per row, how many of the first slots hold no token."""
    used: int
    """Slots written so far, the same for every row."""
    capacity: int


@dataclass(frozen=True)
class Call:
    """What all layers share while they are fed the same tokens."""

    entry: str
    """`decode` or `prefill`."""
    rope: tuple[Tensor, Tensor]
    slots: Tensor
    masks: dict[int | None, Tensor]
    """By attention window, made when the first layer asks."""


class Engine:
    """An engine directory loaded for use."""

    def __init__(self, directory: Path) -> None:
        self.description = _description(directory)
        checkpoint = open_checkpoint(directory)
        plan = checkpoint.plan
        self.config = plan.config
        limits = self.description["limits"]
        self.max_batch, self.max_seq_len = limits["max_batch_size"], limits["max_seq_len"]
        self._max_tokens = limits["max_num_tokens"]
        load = checkpoint.tensors.__getitem__
        self._embedding = load(plan.embedding)
        self._layer_weights = [graph_weights(layer, load) for layer in plan.layers]
        self._head_weights = graph_weights(plan.head, load)
        self._kv_type = CACHE_TYPES[plan.layers[0].signature["kv_cache"]]
        self._graphs = self._load_graphs(directory)
        self._epsilon = torch.tensor(self.config.norm_epsilon)
        tables = rotary_tables(self.config.rope, self.max_seq_len)
        self._cos, self._sin = (torch.from_numpy(table) for table in tables)

    def _load_graphs(self, directory: Path) -> dict[tuple[str, str], Callable[..., Tensor]]:
        graphs = {}
        signatures = {*self.description["layers"], self.description["head"]}
        for signature in sorted(signatures):
            for path in sorted((directory / "graphs" / signature).glob("*.pt2")):
                graphs[signature, path.stem] = aoti_load_package(str(path))
        return graphs

    def start(self, rows: Sequence[int], capacity: int) -> Session:
        """Opens a session for rows of the given lengths with room for `capacity` slots."""
        self._check_capacity(len(rows), capacity)
        config, longest = self.config, max(rows)
        slots = -(-max(capacity, 2) // SLOT_STEP) * SLOT_STEP
        shape = (len(rows), config.kv_heads, slots, config.head_size)
        caches = [
            (torch.zeros(shape).to(self._kv_type), torch.zeros(shape).to(self._kv_type))
            for _ in range(config.layers)
        ]
        padding = torch.tensor([longest - length for length in rows])
        return Session(caches, padding, used=0, capacity=slots)

    def _check_capacity(self, batch: int, capacity: int) -> None:
        for name, asked, limit in (
            ("max_batch_size", batch, self.max_batch),
            ("max_seq_len", capacity, self.max_seq_len),
        ):
            if asked > limit:
                raise Refusal(
                    "engine-limit",
                    f"the request is larger than the engine's {name}",
                    where=f"limits.{name}",
                    expected=f"at most {limit}",
                    actual=asked,
                    remedy="build the engine with larger limits, or score shorter prompts",
                )

    @torch.no_grad()
    def advance(self, session: Session, ids: Tensor, *, chunk_tokens: int | None = None) -> Tensor:
        """Feeds tokens (batch, n), left-padded, and returns their hidden states.

        More tokens than `chunk_tokens` a row, or `max_num_tokens` in all, go through in chunks,
        each reading from the cache what came before; a chunk of one token is a decode step.
        """
        chunk = max(1, min(chunk_tokens or ids.shape[1], self._max_tokens // ids.shape[0]))
        parts = [
            self._advance_chunk(session, ids[:, first : first + chunk])
            for first in range(0, ids.shape[1], chunk)
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _advance_chunk(self, session: Session, ids: Tensor) -> Tensor:
        tokens = ids.shape[1]
        slots = torch.arange(session.used, session.used + tokens)
        positions = (slots[None, :] - session.padding[:, None]).clamp(min=0)
        rope = (self._cos[positions][:, None], self._sin[positions][:, None])
        masks: dict[int | None, Tensor] = {}
        call = Call("decode" if tokens == 1 else "prefill", rope, slots, masks)
        x = self._through(session, ids, call)
        session.used += tokens
        return x

    def _through(self, session: Session, ids: Tensor, call: Call) -> Tensor:
        """Returns the hidden states of tokens after all layers."""
        x = self._embedding[ids].to(torch.float32)
        for number in range(len(self.description["layers"])):
            x = self._layer(session, number, x, call)
        return x

    def _layer(self, session: Session, number: int, x: Tensor, call: Call) -> Tensor:
        """Runs one layer, which reads and writes its own part of the session's cache."""
        window = self.config.windows[number]
        if window not in call.masks:
            call.masks[window] = _mask(session, call.slots, window)
        return self._graphs[self.description["layers"][number], call.entry](
            x,
            call.rope,
            call.slots,
            call.masks[window],
            session.caches[number],
            self._epsilon,
            self._layer_weights[number],
        )

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits (rows, vocabulary) of hidden states (rows, hidden)."""
        head = self._graphs[self.description["head"], "head"]
        parts = [
            head(rows.contiguous(), self._epsilon, self._head_weights)
            for rows in states.split(HEAD_ROWS)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _mask(session: Session, slots: Tensor, window: int | None) -> Tensor:
    """Returns what is added to the scores: 0 where a token may look, minus infinity elsewhere.

    Padding looks at itself, because a row of nothing but minus infinity has no softmax.
    """
    keys = torch.arange(session.capacity)
    distance = slots[:, None] - keys[None, :]
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    allowed = seen[None] & (keys[None, None, :] >= session.padding[:, None, None])
    allowed |= (distance == 0)[None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))[:, None]


def _description(directory: Path) -> dict[str, Any]:
    """Reads `engine.json` and refuses an engine this process must not run."""
    path = directory / DESCRIPTION
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal("not-an-engine", "engine.json is missing", where=str(path)) from None
    except ValueError as error:
        raise Refusal("not-an-engine", f"engine.json: {error}", where=str(path)) from None
    if description.get("schema") != ENGINE_SCHEMA or description.get("builder") != "inductor":
        raise Refusal(
            "not-an-engine",
            "engine.json is not of an inductor engine of this version",
            where=str(path),
            expected=f"builder inductor, schema {ENGINE_SCHEMA}",
            actual=f"builder {description.get('builder')}, schema {description.get('schema')}",
        )
    here = cpu_environment()
    if description["environment"] != here:
        raise Refusal(
            "wrong-environment",
            "the engine was compiled for another CPU or torch; running it may crash",
            where=str(path),
            expected=description["environment"],
            actual=here,
            remedy="build the engine on this machine",
        )
    return description
