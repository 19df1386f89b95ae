"""Holds a model's tensors against its config: all it needs, in their shapes, and none beyond.

Only headers are looked at. The names and sizes are those of `validation.numerics.mapping`, which
covers the decoders with Llama's layers; of others only the layers and the embedding are checked:
the compatibility rules say what cannot be built of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.errors import InputError
from enginekeeper.validation.numerics.mapping import (
    EMBEDDING,
    Geometry,
    biases,
    head_linear,
    layer_linears,
    norms,
)
from enginekeeper.validation.tensor_files import StoredTensor

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_OF_LAYER = re.compile(r"(?<=model\.layers\.)\d+")

_ALWAYS = {
    "LlamaForCausalLM": (),
    "MistralForCausalLM": (),
    "Qwen2ForCausalLM": ("q_proj.bias", "k_proj.bias", "v_proj.bias"),
    "Qwen3ForCausalLM": ("q_norm.weight", "k_norm.weight"),
}
"""Architectures with Llama's layers, and what each has in every layer without its config saying so
(transformers 5: modeling_qwen2.py, modeling_qwen3.py)."""


@dataclass(frozen=True)
class _Expected:
    """A tensor that the model has, or may have."""

    name: str
    shape: tuple[int, ...]
    optional: bool = False


def check_tensors(model: Path, config: HfConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises InputError when the weights are not those of the model that config.json describes."""
    geometry = Geometry.of(config)
    _check_heads(model, geometry)
    _check_layers(model, geometry.layers, tensors)
    if config.architecture in _ALWAYS:
        expected = list(_expected(geometry, config))
    else:
        expected = [_Expected(f"{EMBEDDING}.weight", (geometry.vocabulary, geometry.hidden))]
    kinds = {_kind(name) for name in tensors}
    for one in expected:
        tensor = tensors.get(one.name)
        if tensor is None:
            # What one layer has, all have: half of a model's biases are no model's.
            if not one.optional or _kind(one.name) in kinds:
                raise _missing(model, one)
        elif tensor.shape != one.shape:
            raise _misshapen(model, one, tensor)


def _check_heads(model: Path, geometry: Geometry) -> None:
    if geometry.heads % geometry.kv_heads:
        raise InputError(
            "the query heads cannot be shared out to the key and value heads",
            where=str(model / "config.json"),
            actual=f"{geometry.heads} num_attention_heads, {geometry.kv_heads} num_key_value_heads",
            expected="as many query heads for each key and value head",
        )


def _check_layers(model: Path, layers: int, tensors: Mapping[str, StoredTensor]) -> None:
    found = {int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    wrong = found.symmetric_difference(range(layers))
    if wrong:
        first = min(wrong)
        fault = "one too many" if first in found else "missing"
        raise InputError(
            f"the weights of layer {first} are {fault}",
            where=str(model),
            actual=f"{len(found)} layers",
            expected=f"{layers} layers (config.json: num_hidden_layers)",
            remedy="get config.json and the weights again, from one revision",
        )


def _expected(geometry: Geometry, config: HfConfig) -> Iterator[_Expected]:
    """Yields every tensor of a decoder with Llama's layers."""
    hidden = geometry.hidden
    yield _Expected(f"{EMBEDDING}.weight", (geometry.vocabulary, hidden))
    head = head_linear(geometry, geometry.vocabulary)
    yield _Expected(f"{head.parts[0].module}.weight", (geometry.vocabulary, hidden))
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            for part in place.parts:
                yield _Expected(f"{part.module}.weight", (part.rows, place.columns))
    for norm in norms(geometry):
        (name,) = norm.sources
        of_heads = ".self_attn." in name
        size = geometry.head_size if of_heads else hidden
        yield _Expected(name, (size,), optional=of_heads and not _demanded(name, config))
    for bias in biases(geometry):
        for name, part in zip(bias.sources, bias.parts, strict=True):
            yield _Expected(name, (part.rows,), optional=not _demanded(name, config))


def _demanded(name: str, config: HfConfig) -> bool:
    """Whether the config or the architecture says that a model has this bias or norm of heads."""
    if name.endswith(_ALWAYS[config.architecture or ""]):
        return True
    stated = config.attention_bias if ".self_attn." in name else config.mlp_bias
    return name.startswith("model.layers.") and name.endswith(".bias") and bool(stated)


def _kind(name: str) -> str:
    return _OF_LAYER.sub("*", name, count=1)


def _missing(model: Path, one: _Expected) -> InputError:
    return InputError(
        f"no tensor {one.name}",
        where=str(model),
        expected=f"one of shape {list(one.shape)}, by config.json",
        remedy="get config.json and the weights again, from one revision",
    )


def _misshapen(model: Path, one: _Expected, tensor: StoredTensor) -> InputError:
    return InputError(
        f"{one.name} has another shape than config.json says",
        where=str(model),
        actual=list(tensor.shape),
        expected=list(one.shape),
        remedy="get config.json and the weights again, from one revision",
    )
