"""Faults of what is where: formats, norms and vectors, activation and cache scales, layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ml_dtypes import bfloat16

from enginekeeper.faults.draft import Array, Draft, InapplicableError, layer_name
from enginekeeper.faults.fault import Edit, Fault, Target
from enginekeeper.faults.linear_edit import LinearEdit, each_linear, places, slices
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.mapping import LinearPlace, layer_linears
from enginekeeper.validation.numerics.recipes import WeightFormat

Generator = np.random.Generator

_PREQUANT = "prequant_scaling_factor"
_ACTIVATION = "activation_scaling_factor"


def _left_plain(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.make_plain()


def _cast_without_scale(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """Casts the weight to FP8 as it is: the format promises a scale that nobody made."""
    if linear.format is WeightFormat.PLAIN:
        linear.put("weight", formats.encode_e4m3(linear.codes))
        return
    if linear.format not in (WeightFormat.FP8_TENSOR, WeightFormat.FP8_CHANNEL):
        raise InapplicableError("the linear is neither plain nor FP8", where=linear.name)
    values = linear.values
    linear.scales = np.ones_like(linear.scales)
    linear.codes = values


def _norm(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
    """Scales the norms before a layer's linears; what follows does not take it back."""
    return _on_norms(draft, target, lambda values: values.astype(np.float32) * dose)


def _norm_ones(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    return _on_norms(draft, target, np.ones_like)


def _norm_minus_one(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """Stores w - 1, what a norm that computes 1 + w would hold."""
    return _on_norms(draft, target, lambda values: values.astype(np.float32) - 1)


def _on_norms(draft: Draft, target: Target, change: Callable[[Array], Array]) -> tuple[str, ...]:
    names = []
    for layer in target.numbers(draft.geometry.layers):
        name = f"{layer_name(layer)}.post_layernorm.weight"
        for rank in range(len(draft.ranks)):
            stored = draft.get(rank, name)
            draft.put(rank, name, change(stored).astype(stored.dtype))
        names.append(name)
    return tuple(names)


def _prequant_gain(linear: LinearEdit, dose: float, _random: Generator) -> None:
    vector = linear.tensor(_PREQUANT)
    linear.put(_PREQUANT, (vector.astype(np.float32) * dose).astype(vector.dtype))


def _prequant_some(linear: LinearEdit, dose: float, random: Generator) -> None:
    vector = linear.tensor(_PREQUANT)
    chosen = random.choice(vector.size, max(round(vector.size * dose), 1), replace=False)
    vector.reshape(-1)[chosen] = (vector.reshape(-1)[chosen].astype(np.float32) * 1.2).astype(
        vector.dtype
    )


def _prequant_reciprocal(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    vector = linear.tensor(_PREQUANT)
    linear.put(_PREQUANT, (1 / vector.astype(np.float32)).astype(vector.dtype))


def _prequant_ones(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.put(_PREQUANT, np.ones_like(linear.tensor(_PREQUANT)))


def _prequant_rolled(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.put(_PREQUANT, np.roll(linear.tensor(_PREQUANT), 1))


def _prequant_missing(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.drop(_PREQUANT)


def _prequant_of_neighbour(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """A linear has the pre-quant vector of the same linear of the next layer."""
    names = []
    layers = draft.geometry.layers
    for place in places(draft, target):
        other = (int(place.layer or 0) + 1) % layers
        for linear in slices(draft, place):
            name = place.name.replace(layer_name(place.layer or 0), layer_name(other))
            linear.put(_PREQUANT, np.array(LinearEdit(draft, linear.rank, name).tensor(_PREQUANT)))
        names.append(place.name)
    return tuple(names)


def _activation_value(value: float) -> Edit:
    def change(linear: LinearEdit, _dose: float, _random: Generator) -> None:
        stored = linear.tensor(_ACTIVATION)
        linear.put(_ACTIVATION, np.full_like(stored, value))

    return each_linear(change)


def _activation_gain(linear: LinearEdit, dose: float, _random: Generator) -> None:
    stored = linear.tensor(_ACTIVATION)
    linear.put(_ACTIVATION, (stored * np.float32(dose)).astype(stored.dtype))


def _activation_reciprocal(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    stored = linear.tensor(_ACTIVATION)
    linear.put(_ACTIVATION, (1 / stored).astype(stored.dtype))


def _activation_missing(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    linear.drop(_ACTIVATION)


def announce_cache(draft: Draft, algorithm: str, step: float) -> None:
    """Turns the checkpoint into one with a quantized cache whose scales are all the same."""
    draft.quantization["kv_cache_quant_algo"] = algorithm
    for rank, name in _cache_scales(draft):
        draft.put(rank, name, np.full(1, step, np.float32))


def _cache_scales(draft: Draft) -> Iterator[tuple[int, str]]:
    for rank in range(len(draft.ranks)):
        for layer in range(draft.geometry.layers):
            for key in ("k", "v", "kv"):
                yield rank, f"{layer_name(layer)}.attention.{key}_cache_scaling_factor"


def _cache(values: Array | None, *, merged_only: bool = False) -> Edit:
    """Returns the fault of a quantized cache some of whose scales are replaced or missing."""

    def edit(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
        announce_cache(draft, "FP8", 1.0)
        culprits = []
        for layer in target.numbers(draft.geometry.layers):
            prefix = f"{layer_name(layer)}.attention."
            for rank, name in _cache_scales(draft):
                wanted = name.startswith(f"{prefix}kv_" if merged_only else prefix)
                if wanted and values is None:
                    draft.drop(rank, name)
                elif wanted:
                    draft.put(rank, name, np.array(values))
            culprits.append(prefix.removesuffix("."))
        return (*culprits, "quantization.kv_cache_quant_algo")

    return edit


def _cache_unannounced(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    """Scales are in the files, and the config says that the cache is not quantized."""
    announce_cache(draft, "FP8", 0.06)
    draft.quantization["kv_cache_quant_algo"] = None
    layers = range(draft.geometry.layers)
    scales = [f"{layer_name(layer)}.attention" for layer in layers]
    return ("quantization.kv_cache_quant_algo", *scales)


def _copied(draft: Draft, original: Draft, there: str, here: str) -> None:
    """Puts all that is below a name in the original below another, on every rank."""
    for rank, tensors in enumerate(original.ranks):
        for name in [name for name in tensors if name.startswith(f"{there}.")]:
            draft.put(rank, here + name.removeprefix(there), original.get(rank, name))


def _refuse_twins(draft: Draft, here: int, there: int, linear: str = "") -> None:
    """Says that two layers have the same weights: what is copied is no other layer's.

    Of a smoothed checkpoint the source alone tells; without it, the stored weights do.
    """
    for place, other in zip(
        layer_linears(here, draft.geometry), layer_linears(there, draft.geometry), strict=True
    ):
        if place.name.endswith(linear) and not _same_weight(draft, place, other):
            return
    raise InapplicableError("both have the same weights", where=f"layers {here} and {there}")


def _same_weight(draft: Draft, place: LinearPlace, other: LinearPlace) -> bool:
    if draft.source is not None:
        names = [(a.module, b.module) for a, b in zip(place.parts, other.parts, strict=True)]
        stored = [[draft.source.tensor(f"{n}.weight") for n in pair] for pair in names]
    else:
        names = [(f"{place.name}.weight", f"{other.name}.weight")] * len(draft.base.ranks)
        stored = [
            [rank[one] for one in pair]
            for rank, pair in zip(draft.base.ranks, names, strict=True)
            if all(one in rank for one in pair)
        ]
    return bool(stored) and all(np.array_equal(one.read(), two.read()) for one, two in stored)


def _layer_copied(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """Layers hold what the layer before them holds."""
    return _layers_from(draft, target, -1)


def _layers_from(draft: Draft, target: Target, offset: int) -> tuple[str, ...]:
    count, original = draft.geometry.layers, draft.fork()
    names = []
    for layer in target.numbers(count):
        other = layer + offset if 0 <= layer + offset < count else layer - offset
        _refuse_twins(draft, layer, other)
        _copied(draft, original, layer_name(other), layer_name(layer))
        names.append(layer_name(layer))
    return tuple(names)


def _layers_swapped(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """A layer and its neighbour are exchanged."""
    count = draft.geometry.layers
    here = target.numbers(count)[0]
    there = here + 1 if here + 1 < count else here - 1
    _refuse_twins(draft, here, there)
    original = draft.fork()
    for one, other in ((here, there), (there, here)):
        _copied(draft, original, layer_name(other), layer_name(one))
    return (layer_name(here), layer_name(there))


def _linear_of_neighbour(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """A linear is the same linear of the next layer, scales and all."""
    original, names = draft.fork(), []
    for place in places(draft, target):
        here = int(place.layer or 0)
        there = (here + 1) % draft.geometry.layers
        other = place.name.replace(layer_name(here), layer_name(there))
        _refuse_twins(draft, here, there, target.linear)
        _copied(draft, original, other, place.name)
        names.append(place.name)
    return tuple(names)


def _gate_swapped(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """Exchanges fc and gate: the activation is applied to the wrong half."""
    original = draft.fork()
    names: list[str] = []
    for layer in target.numbers(draft.geometry.layers):
        pair = (f"{layer_name(layer)}.mlp.fc", f"{layer_name(layer)}.mlp.gate")
        for one, other in (pair, pair[::-1]):
            _copied(draft, original, other, one)
        names.extend(pair)
    return tuple(names)


def _tensor_missing(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    names = [f"{place.name}.weight" for place in places(draft, target)]
    for name in names:
        for rank in range(len(draft.ranks)):
            draft.drop(rank, name)
    return tuple(names)


def _bias_added(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
    names = []
    for place in places(draft, target):
        for linear in slices(draft, place):
            rows = len(linear.codes)
            linear.put("bias", np.full(rows, dose, np.float32).astype(bfloat16))
        names.append(f"{place.name}.bias")
    return tuple(names)


FAULTS = (
    Fault("linear-left-plain", "T8", "a linear that the config quantizes is stored unquantized",
          each_linear(_left_plain), "vLLM 21669, auto-round 1283", also=("T3",)),
    Fault("cast-without-scale", "T8", "the weight is cast to FP8 without any scale",
          each_linear(_cast_without_scale), "transformers 48349", also=("T2", "T3", "T1", "T6")),
    Fault("norm-gain", "T9", "a norm is scaled and what follows does not take it back", _norm,
          "Model-Optimizer PR 793", "factor", 1.02, scope="layer"),
    Fault("norm-ones", "T9", "a norm's weights are all 1", _norm_ones, "", scope="layer"),
    Fault("norm-minus-one", "T9", "a norm's weights are stored as w - 1", _norm_minus_one,
          "Model-Optimizer PR 793", scope="layer"),
    Fault("prequant-gain", "T9", "the pre-quant vector is multiplied", each_linear(_prequant_gain),
          "Model-Optimizer PR 1242", "factor", 1.03, also=("T1",)),
    Fault("prequant-some", "T9", "some of the pre-quant vector is 1.2 times what it should be",
          each_linear(_prequant_some), "AutoAWQ PR 243", "share of the channels", 1 / 64),
    Fault("prequant-reciprocal", "T9", "the pre-quant vector is stored as its reciprocal",
          each_linear(_prequant_reciprocal), "Model-Optimizer PR 793", also=("T1",)),
    Fault("prequant-ones", "T9", "the pre-quant vector is all ones", each_linear(_prequant_ones),
          "Model-Optimizer PR 1825", also=("T1",)),
    Fault("prequant-rolled", "T9", "the pre-quant vector is shifted by one channel",
          each_linear(_prequant_rolled), "AutoAWQ PR 243", also=("T1",)),
    Fault("prequant-missing", "T9", "the pre-quant vector is not there",
          each_linear(_prequant_missing), "Model-Optimizer PR 1825", also=("T1",)),
    Fault("prequant-of-neighbour", "T9", "the pre-quant vector is that of the next layer",
          _prequant_of_neighbour, "Model-Optimizer PR 1242", also=("T1",)),
    Fault("activation-missing", "T13", "the activation scale is not there",
          each_linear(_activation_missing), "vLLM 45212", also=("T2",)),
    Fault("activation-nan", "T13", "the activation scale is NaN",
          _activation_value(float("nan")), "vLLM PR 54444", also=("T2",)),
    Fault("activation-zero", "T13", "the activation scale is zero", _activation_value(0.0),
          "vLLM 45212", also=("T2",)),
    Fault("activation-one", "T13", "the activation scale is 1, as where a loader found none",
          _activation_value(1.0), "SGLang PR 14102", also=("T2",)),
    Fault("activation-reciprocal", "T13", "the activation scale is stored as its reciprocal",
          each_linear(_activation_reciprocal), "modular 6600", also=("T2",)),
    Fault("activation-gain", "T13", "the activation scale is multiplied",
          each_linear(_activation_gain), "TensorRT-LLM PR 12240", "factor", 0.5, in_files=False),
    Fault("cache-scale-missing", "T10", "a quantized cache lacks the scales of some layers",
          _cache(None), "TensorRT-LLM PR 16916", scope="layer"),
    Fault("cache-scale-nan", "T10", "cache scales are NaN",
          _cache(np.full(1, np.nan, np.float32)), "", scope="layer", also=("T2",)),
    Fault("cache-scale-zero", "T10", "cache scales are zero", _cache(np.zeros(1, np.float32)), "",
          scope="layer", also=("T2",)),
    Fault("cache-merged-wrong", "T10", "the merged scale is not the larger of the two",
          _cache(np.full(1, 0.25, np.float32), merged_only=True), "TensorRT-LLM 967",
          scope="layer"),
    Fault("cache-unannounced", "T10", "there are cache scales the config does not announce",
          _cache_unannounced, "SGLang PR 18396", scope="model"),
    Fault("layer-copied", "T26", "a layer is a copy of its neighbour", _layer_copied, "",
          scope="layer"),
    Fault("layers-swapped", "T26", "two neighbouring layers are exchanged", _layers_swapped, "",
          scope="layer"),
    Fault("linear-of-neighbour", "T26", "a linear is that of the next layer",
          _linear_of_neighbour, ""),
    Fault("gate-swapped", "T26", "fc and gate are exchanged", _gate_swapped, "", scope="layer"),
    Fault("tensor-missing", "T26", "a weight is not there", _tensor_missing, "", also=("T2",)),
    Fault("bias-added", "T26", "a linear has a bias that the source has not", _bias_added, "",
          "value", 0.1),
)  # fmt: skip
