"""A loaded engine whose weights and constants are exchanged in place, for one edit after another.

The compiled graphs are the engine's own: weights, rotary tables, epsilon and masks are arguments of
them. What would need another graph is refused. An edit changes nothing before the first layer it
touches: what the engine as it was built gave there, for the same batch of prompts, is kept and
taken up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from _checkpoint import WEIGHTS, open_checkpoint
from _engine import Engine
from _graphs import graph_digest, graph_weights
from _layer_plan import Plan, plan_engine
from _model_config import load_config
from _rope import rotary_tables
from _step import Refusal
from _tensor_index import read_index
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from _engine import Call, Session

    Tensor = torch.Tensor

EDITED = "edited0.safetensors"
"""The tensors of an edit that are not those of the checkpoint, beside its config.json."""


@dataclass(frozen=True)
class Edit:
    """What an edit comes to in this engine."""

    changed: tuple[str, ...]
    """Tensors whose bytes are others, and what of the config is another number."""
    first_layer: int
    """The first layer that is not as built; the number of layers if only the head is not."""


class EditedEngine(Engine):
    """An engine that can be put into the place of its edited checkpoints."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._checkpoint = open_checkpoint(directory)
        self._file = directory / WEIGHTS
        self._index = read_index(self._file)
        self._built = dict(vars(self))
        self._first: int | None = None
        self._kept: dict[tuple[int, ...], list[Tensor]] = {}

    def restore(self) -> None:
        """Takes every edit back."""
        vars(self).update(self._built)
        self._first = None

    def edit(self, overlay: Path, dropped: Sequence[str]) -> Edit:
        """Puts an edit in the place of what was there; refuses what the builder would refuse.

        Args:
            overlay: A directory with the edited config and the edited tensors.
            dropped: Tensors of the checkpoint that the edit has not.
        """
        self.restore()
        edited = overlay / EDITED
        index = {name: entry for name, entry in self._index.items() if name not in dropped}
        plan = plan_engine(load_config(overlay), index | read_index(edited))
        self._check_graphs(plan)
        with safe_open(edited, framework="pt") as file:
            new = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        other = {name for name, tensor in new.items() if self._is_other(name, tensor)}
        changed = other | set(dropped) | set(self._constants(plan))
        first = self._first_layer(plan, changed)
        self._install(plan, {name: new[name] for name in other})
        self._first = first
        return Edit(tuple(sorted(changed)), first)

    def _check_graphs(self, plan: Plan) -> None:
        needed = {graph_digest(graph) for graph in (*plan.layers, plan.head)}
        if needed <= {signature for signature, _ in self._graphs}:
            return
        raise Refusal(
            "another-graph",
            "the edit needs a graph that this engine does not hold",
            where="config.json",
            actual=", ".join(sorted(needed - {signature for signature, _ in self._graphs})),
        )

    def _is_other(self, name: str, tensor: Tensor) -> bool:
        ours = self._load(name) if name in self._index else None
        if ours is None or (ours.dtype, ours.shape) != (tensor.dtype, tensor.shape):
            return True
        return not torch.equal(_bytes(ours), _bytes(tensor))

    def _load(self, name: str) -> Tensor:
        known = self._checkpoint.tensors.get(name)
        if known is not None:
            return known
        with safe_open(self._file, framework="pt") as file:
            return file.get_tensor(name)

    def _constants(self, plan: Plan) -> list[str]:
        """Names what the config changes of the numbers that graphs are given."""
        ours, theirs = self._built["config"], plan.config
        pairs = {
            "norm_epsilon": (ours.norm_epsilon, theirs.norm_epsilon),
            "rope": (_tables_of(ours.rope), _tables_of(theirs.rope)),
            "windows": (ours.windows, theirs.windows),
            "layers": (ours.layers, theirs.layers),
        }
        found = [name for name, (one, other) in pairs.items() if one != other]
        signatures = [graph_digest(layer) for layer in plan.layers]
        if signatures != self.description["layers"][: len(signatures)]:
            found.append("graphs")
        return found

    def _first_layer(self, plan: Plan, changed: set[str]) -> int:
        everywhere = {"norm_epsilon", "rope", "windows", "graphs", plan.embedding}
        if changed & everywhere:
            return 0
        for number, layer in enumerate(plan.layers):
            if layer.tensor_names() & changed:
                return number
        return min(len(plan.layers), len(self.description["layers"]))

    def _install(self, plan: Plan, new: dict[str, Tensor]) -> None:
        def load(name: str) -> Tensor:
            return new[name] if name in new else self._load(name)

        self.config = plan.config
        self.description = {
            **self.description,
            "layers": [graph_digest(layer) for layer in plan.layers],
            "head": graph_digest(plan.head),
        }
        self._embedding = load(plan.embedding)
        self._layer_weights = [graph_weights(layer, load) for layer in plan.layers]
        self._head_weights = graph_weights(plan.head, load)
        self._epsilon = torch.tensor(plan.config.norm_epsilon)
        tables = rotary_tables(plan.config.rope, self.max_seq_len)
        self._cos, self._sin = (torch.from_numpy(table) for table in tables)

    def _through(self, session: Session, ids: Tensor, call: Call) -> Tensor:
        """As built, keeps what every layer is given; edited, begins at the first edited layer."""
        if session.used or call.entry != "prefill":
            return super()._through(session, ids, call)
        key = (*ids.shape, *session.padding.tolist(), *ids.flatten().tolist())
        if self._first is None:
            return self._kept_through(session, ids, call, key)
        if not self._first or key not in self._kept:
            return super()._through(session, ids, call)
        x = self._kept[key][self._first]
        for number in range(self._first, len(self.description["layers"])):
            x = self._layer(session, number, x, call)
        return x

    def _kept_through(
        self, session: Session, ids: Tensor, call: Call, key: tuple[int, ...]
    ) -> Tensor:
        states = [self._embedding[ids].to(torch.float32)]
        for number in range(len(self.description["layers"])):
            states.append(self._layer(session, number, states[-1], call))
        self._kept[key] = states
        return states[-1]


def _tables_of(rope: Any) -> tuple[Any, ...]:  # noqa: ANN401 - _model_config.Rope
    """Returns what the tables follow from: the positions they reach to are the engine's own."""
    return rope.base, rope.dim, rope.scaling


def _bytes(tensor: Tensor) -> Tensor:
    """Returns a tensor's bytes: NaN equals itself, and 0.0 is not -0.0."""
    return tensor.reshape(-1).contiguous().view(torch.uint8)
