"""The step `sensitivities`: how the twin's log-probabilities move with the gain of each tensor.

Job: `{"twin", "tokens", "targets": {"twin": score file}, "prompts": [numbers], "positions": how
many of each prompt, from its beginning, "codes": {"bits", "group"} or null, "output"}`. One forward
pass per atom: the output of one linear or norm without its bias is multiplied with 1 + STEP, what a
layer's cache holds is, the angles are those of a rope base 1 + STEP times the twin's, or eps is
doubled. Where weights are integer codes, every code of a linear is moved by STEP, too, in groups of
so many columns (null: rows). What is written is the difference of the log-probabilities at the
twin's best tokens over the step, by finite differences, float32 [atoms, positions, best tokens].

Rules:

- a tensor of layer n changes nothing before it: its pass begins there, with the states the
  undisturbed pass had;
- what is a sum of others has no pass: in a layer without biases and norms of keys a key's gain is
  the query's, a value's the output projection's, and a norm's that of all linears that read it;
- inputs and cache are not rounded, whatever the twin says: rounding is chaotic, and has no slope.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _step import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import torch
    from _twin import LoadedModel

    Tensor = torch.Tensor

SCHEMA = "2"

STEP = 0.01
"""Relative: large beside the noise of float32, small beside what makes a model nonlinear."""

NORMS = ("norm", "layernorm")
"""How the paths of norms end."""

CACHE = "self_attn.kv_cache"
"""What a wrong scale of a layer's cache multiplies: keys and values, biases included."""

SUMS = {
    "self_attn.k_proj": ("self_attn.q_proj",),
    "self_attn.v_proj": ("self_attn.o_proj",),
    CACHE: ("self_attn.q_proj", "self_attn.o_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
    "input_layernorm": ("self_attn.q_proj", "self_attn.q_proj", "self_attn.o_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.down_proj"),
}
"""What follows in a layer of the plain form: what is multiplied with each other has one gain, and a
norm's is that of all linears that read it."""

READ_BY_OTHERS = {*(f"self_attn.{one}_proj" for one in "qkv"), "mlp.up_proj"}
"""A bias here is multiplied with what comes after, and not with what comes before."""

PLAIN_LINEARS = {*READ_BY_OTHERS, "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"}
PLAIN_NORMS = {"input_layernorm", "post_attention_layernorm"}

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

    loaded = load_model(Path(job["twin"]), rounded=False)
    vocabulary = loaded.model.config.vocab_size
    tokens = read_tokens(Path(job["tokens"]), vocabulary)
    chosen, starts, most = tokens.chosen(job["prompts"]), tokens.offsets, int(job["positions"])
    spans = [np.arange(starts[one], min(starts[one + 1], starts[one] + most)) for one in chosen]
    rows = np.concatenate(spans)
    best = read_targets(job["targets"], int(starts[-1]), vocabulary)["twin"][rows]
    passes = Passes(loaded, [tokens.ids[one][: most + 1] for one in chosen], best)
    known: dict[str, np.ndarray] = {}
    measured, derived = atoms(loaded.model)
    measured += zero_points(loaded.model, job["codes"])
    for number, atom in enumerate(measured):
        print(f"progress {number}/{len(measured)} {atom.name}", flush=True)
        with atom.disturbed:
            moved = passes.from_layer(atom.layer)
        known[atom.name] = ((moved - passes.undisturbed) / atom.step).numpy()
    for name, parts in derived.items():
        known[name] = np.sum([known[part] for part in parts], axis=0)
    metadata = {
        "schema": SCHEMA,
        "atoms": json.dumps(list(known)),
        "prompts": json.dumps(chosen),
        "positions": json.dumps([len(span) for span in spans]),
    }
    write_arrays(Path(job["output"]), {"sensitivities": np.stack(list(known.values()))}, metadata)
    return {"atoms": len(known), "passes": len(measured), "positions": len(rows)}


@dataclass(frozen=True)
class Atom:
    """A disturbance, the first layer it changes, and its size."""

    name: str
    layer: int
    disturbed: AbstractContextManager[None]
    step: float = STEP


Derived = dict[str, tuple[str, ...]]
"""Atoms that are sums of others, which come before them."""


def atoms(model: Any) -> tuple[list[Atom], Derived]:  # noqa: ANN401 - transformers
    """Returns the atoms that need a pass, and those that follow from them."""
    measured, derived = [], Derived()
    for number, layer in enumerate(model.model.layers):
        name = f"model.layers.{number}"
        follows = _follows(layer)
        derived |= {
            f"{name}.{one}": tuple(f"{name}.{part}" for part in parts)
            for one, parts in follows.items()
        }
        for path, module in layer.named_modules():
            if path not in follows and _has_gain(path, module):
                measured.append(Atom(f"{name}.{path}", number, _louder(module)))
        cached = _cached(layer)
        if cached and CACHE not in follows:
            measured.append(Atom(f"{name}.{CACHE}", number, _louder(*cached, bias=True)))
    last = len(model.model.layers)
    for path, module in model.named_modules():
        if not path.startswith("model.layers.") and _has_gain(path, module):
            measured.append(Atom(path, last, _louder(module)))
    measured.append(Atom("rope base", 0, _turned(model.model.rotary_emb)))
    measured.append(Atom("rms_norm_eps", 0, _cruder(model), 1.0))
    return measured, derived


def zero_points(model: Any, codes: Mapping[str, int] | None) -> list[Atom]:  # noqa: ANN401
    """Returns the atoms of the zero points of quantized linears: one, in codes."""
    import torch  # noqa: PLC0415

    found: list[Atom] = []
    for number, layer in enumerate(model.model.layers if codes else ()):
        for path, module in layer.named_modules():
            if codes and isinstance(module, torch.nn.Linear):
                moved = _shifted(module, codes["bits"], codes["group"])
                found.append(Atom(f"model.layers.{number}.{path}.zero_point", number, moved))
    return found


def _has_gain(path: str, module: Any) -> bool:  # noqa: ANN401
    import torch  # noqa: PLC0415

    return isinstance(module, torch.nn.Linear) or path.endswith(NORMS)


def _follows(layer: Any) -> Derived:  # noqa: ANN401
    """Returns what needs no pass, in a layer of the plain form; nothing in any other."""
    import torch  # noqa: PLC0415

    modules = dict(layer.named_modules())
    linears = {path: one for path, one in modules.items() if isinstance(one, torch.nn.Linear)}
    norms = {path for path in modules if path.endswith(NORMS)}
    if set(linears) != PLAIN_LINEARS or norms != PLAIN_NORMS:
        return {}
    biased = {path for path, one in linears.items() if one.bias is not None}
    return {} if biased & READ_BY_OTHERS else SUMS


def _cached(layer: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Returns what gives the keys (before rotation, which changes no size) and the values."""
    attention = getattr(layer, "self_attn", None)
    if not hasattr(attention, "k_proj") or not hasattr(attention, "v_proj"):
        return ()
    return getattr(attention, "k_norm", attention.k_proj), attention.v_proj


@contextmanager
def _louder(*modules: Any, bias: bool = False) -> Iterator[None]:  # noqa: ANN401
    """Multiplies what the weights of modules give; a bias stays, unless it is asked for, too."""

    def scale(module: Any, _inputs: object, output: Tensor) -> Tensor:  # noqa: ANN401
        stays = None if bias else getattr(module, "bias", None)
        return output + STEP * (output if stays is None else output - stays)

    hooks = [module.register_forward_hook(scale) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _shifted(module: Any, bits: int, group: int | None) -> Iterator[None]:  # noqa: ANN401
    """Moves every code by STEP: the largest weight of a group has the largest code."""
    import torch  # noqa: PLC0415

    weight = module.weight.detach()
    groups = weight.unflatten(1, (-1, group or weight.shape[1]))
    scales = groups.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    shift = scales.expand_as(groups).flatten(1) * STEP

    def move(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + torch.nn.functional.linear(inputs[0], shift)

    hook = module.register_forward_hook(move)
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
