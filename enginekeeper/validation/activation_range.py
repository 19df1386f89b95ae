"""Whether the activation scale of a linear without a norm fits what the source can feed it.

The output projection reads averages of values, the last linear of the MLP reads products of the
other two, the first of them through an activation that enlarges nothing: neither exceeds what
`reach.py` says of those. A scale for more is for no calibration of this model. Below nothing can be
proven: averages and products may be as small as they like. But a layer's that is far below all
others' cuts off what it is fed, or is a strange layer: doubt.

Calibrated maxima of SmolLM2-135M were at most 0.32 (MLP) and 0.25 (values) of these bounds, and at
least 0.14 of the middle layer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from enginekeeper.validation.activation_scales import LARGEST
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import Floats, widen
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.numerics.recipes import UnknownRecipeError
from enginekeeper.validation.reach import Reach
from enginekeeper.validation.source_model import SourceModel

_ROOM = 2.0
"""What an exporter may leave above the largest activation."""

_UNUSUAL = 8.0
"""Times the middle layer's: the source is read for what is above it only."""

_STRANGELY_LOW, _LAYERS = 1 / 64, 8
"""Times the middle layer's, and how many layers there are to say what is usual."""

_KINDS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
_NORMS = {
    "attention.qkv": "input_layernorm",
    "mlp.fc": "post_layernorm",
    "mlp.gate": "post_layernorm",
}

_LARGE = 256.0
"""Activations that are looked at even if all layers have as large ones."""


def findings(source: SourceModel, checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding for every scale that is beyond what its linear can be fed, or far below."""
    if checkpoint.folds_norms:
        return  # the vectors are in the linears before, not beside these
    for kind in _KINDS:
        stated = {
            layer: found
            for layer in range(geometry.layers)
            if (found := _stated(checkpoint, f"transformer.layers.{layer}.{kind}", layer))
        }
        if not stated:
            continue
        yield from _far_below(checkpoint, kind, stated)
        if kind in _NORMS:
            continue  # `activation_scales` knows what these give out at most
        usual = float(np.median(list(stated.values())))
        for layer, most in stated.items():
            if most > min(_UNUSUAL * usual, _LARGE):
                yield from _judge(source, checkpoint, geometry, (kind, layer), most)


def _stated(checkpoint: Checkpoint, name: str, layer: int) -> float | None:
    """Returns the largest activation that a scale is for, or None where there is no usable one."""
    try:
        activation = checkpoint.quantization.recipe(name).activation
    except UnknownRecipeError:
        return None
    stored = checkpoint.tensors(layer, f"{name}.activation_scaling_factor")
    if activation not in LARGEST or not stored or not stored[0].nbytes:
        return None
    scale = float(widen(stored[0].read()).reshape(-1)[0])
    return scale * LARGEST[activation] if np.isfinite(scale) and scale > 0 else None


def _far_below(checkpoint: Checkpoint, kind: str, stated: Mapping[int, float]) -> Iterator[Finding]:
    """Yields doubt for layers whose scale is far below the middle one's, as their norms are."""
    if len(stated) < _LAYERS:
        return
    norms = {layer: _loudest(checkpoint, kind, layer) for layer in stated}
    usual = float(np.median([most / norms[layer] for layer, most in stated.items()]))
    for layer, most in stated.items():
        if most < _STRANGELY_LOW * usual * norms[layer]:
            yield Finding(
                "weights.activation_scale",
                "inconclusive",
                f"transformer.layers.{layer}.{kind}.activation_scaling_factor",
                f"the scale is for activations of up to {most:.4g}; by the middle layer's it would "
                f"be for {usual * norms[layer]:.4g}: larger ones are cut off",
                most,
                usual * norms[layer],
                "T13",
            )


def _loudest(checkpoint: Checkpoint, kind: str, layer: int) -> float:
    """Returns the largest weight of the norm before a linear; 1 where there is none."""
    name = f"transformer.layers.{layer}.{_NORMS.get(kind)}.weight"
    norm = checkpoint.tensors(layer, name)
    largest = float(np.abs(widen(norm[0].read())).max()) if norm and norm[0].nbytes else 1.0
    return largest if np.isfinite(largest) and largest > 0 else 1.0


def _judge(
    source: SourceModel,
    checkpoint: Checkpoint,
    geometry: Geometry,
    place: tuple[str, int],
    most: float,
) -> Iterator[Finding]:
    kind, layer = place
    name = f"transformer.layers.{layer}.{kind}"
    fed = (
        _values(source, geometry, layer) if kind == "attention.dense" else _products(source, layer)
    )
    vectors = checkpoint.tensors(layer, f"{name}.prequant_scaling_factor")
    if vectors:
        vector = np.concatenate([widen(tensor.read()).reshape(-1) for tensor in vectors])
        if vector.shape != fed.shape:
            return  # the weight audit says so
        fed = fed * np.abs(vector)
    bound = float(fed.max())
    if most > _ROOM * bound:
        yield Finding(
            "weights.activation_scale",
            "fail",
            f"{name}.activation_scaling_factor",
            f"the scale is for activations of up to {most:.4g}; the weights before the linear can "
            f"give out {bound:.4g} at most",
            most,
            bound,
            "T13",
        )


def _values(source: SourceModel, geometry: Geometry, layer: int) -> Floats:
    """Returns a bound for each input of the output projection: a head averages its values."""
    prefix = f"model.layers.{layer}"
    values = Reach.of(source, f"{prefix}.input_layernorm", f"{prefix}.self_attn.v_proj").largest
    heads = values.reshape(geometry.kv_heads, geometry.head_size)
    repeated = np.repeat(heads, geometry.heads // geometry.kv_heads, axis=0)
    return repeated.reshape(-1)


def _products(source: SourceModel, layer: int) -> Floats:
    """Returns a bound for each input of the last linear of the MLP."""
    prefix = f"model.layers.{layer}"
    norm = f"{prefix}.post_attention_layernorm"
    gate, up = (Reach.of(source, norm, f"{prefix}.mlp.{one}_proj") for one in ("gate", "up"))
    return gate.largest * up.largest
