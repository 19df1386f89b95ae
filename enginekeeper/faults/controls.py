"""Healthy controls: what another honest exporter, or another writer of files, would have done."""

from __future__ import annotations

import random

import numpy as np

from enginekeeper.faults.draft import Array, Draft, InapplicableError, layer_name, reordered
from enginekeeper.faults.fault import Edit, Fault, Target
from enginekeeper.faults.linear_edit import LinearEdit, each_linear
from enginekeeper.faults.structure_faults import announce_cache
from enginekeeper.validation.numerics.formats import narrow, widen
from enginekeeper.validation.numerics.recipes import WeightFormat

Generator = np.random.Generator

_HALF_UNIT = np.float32(2.0**-8)
"""Of bfloat16, relative: what rounding to half precision changes at most."""


def _scales_in(dtype: str) -> Edit:
    def change(linear: LinearEdit, _dose: float, _random: Generator) -> None:
        if linear.format is WeightFormat.NVFP4:
            raise InapplicableError("NVFP4 scales have a format of their own", where=linear.name)
        rounded = widen(narrow(linear.scales, dtype))
        if (np.abs(rounded - linear.scales) > linear.scales * _HALF_UNIT).any():
            raise InapplicableError(f"a scale is too small for {dtype}", where=linear.name)
        linear.scales = rounded

    return each_linear(change)


def _order(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    """Puts the tensors of every file into another order, drawn from the seed."""
    for rank, tensors in enumerate(draft.ranks):
        names = sorted(tensors)
        random.Random(target.seed).shuffle(names)  # noqa: S311 - an order, not a secret
        draft.ranks[rank] = reordered(tensors, names)
    return ()


def _metadata(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    draft.metadata["format"] = "pt"
    draft.metadata["run"] = str(target.seed)
    return ()


def _unquantized_in(dtype: str) -> Edit:
    """Stores what is not quantized in a wider format: the same numbers."""

    def edit(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
        for rank, tensors in enumerate(draft.ranks):
            for name in list(tensors):
                if name.endswith(("layernorm.weight", "ln_f.weight", "embedding.weight")):
                    draft.put(rank, name, widen(draft.get(rank, name)).astype(dtype))
        return ()

    return edit


def _padded(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    """Adds rows of zeros to the vocabulary, as exporters do to make it divisible."""
    rows = round(dose)
    if len(draft.ranks) > 1:
        raise InapplicableError("padding is added to checkpoints of one rank")
    if draft.source is not None and draft.source.config.vocab_size != draft.config["vocab_size"]:
        raise InapplicableError("the vocabulary is padded already")
    for name in ("transformer.vocab_embedding.weight", "lm_head.weight"):
        table = draft.get(0, name)
        padding = np.zeros((rows, table.shape[1]), table.dtype)
        draft.put(0, name, np.concatenate([table, padding]))
    draft.config["vocab_size"] += rows
    return ()


def _shared_table(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    """Stores a tied table once and says so."""
    for rank in range(len(draft.ranks)):
        head = draft.get(rank, "lm_head.weight")
        if not np.array_equal(head, draft.get(rank, "transformer.vocab_embedding.weight")):
            raise InapplicableError("the head is not the embedding table")
        draft.drop(rank, "lm_head.weight")
    draft.config["share_embedding_table"] = True
    return ()


def _folded(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
    """Multiplies a norm by a power of two that the linears after it take back exactly."""
    for layer in target.numbers(draft.geometry.layers):
        for rank in range(len(draft.ranks)):
            name = f"{layer_name(layer)}.post_layernorm.weight"
            norm = draft.get(rank, name)
            draft.put(rank, name, (norm.astype(np.float32) * dose).astype(norm.dtype))
            for linear in ("fc", "gate"):
                edit = LinearEdit(draft, rank, f"{layer_name(layer)}.mlp.{linear}")
                if edit.has("activation_scaling_factor"):
                    raise InapplicableError("the activation scale would have to follow")
                edit.multiply_scales(1 / dose)
    return ()


def _zero_bias(draft: Draft, target: Target, _dose: float) -> tuple[str, ...]:
    for layer in target.numbers(draft.geometry.layers):
        for rank in range(len(draft.ranks)):
            if draft.has(rank, f"{layer_name(layer)}.mlp.proj.bias"):
                raise InapplicableError("the linear has a bias of its own")
            norm: Array = draft.get(rank, f"{layer_name(layer)}.input_layernorm.weight")
            bias = np.zeros(len(norm), norm.dtype)
            draft.put(rank, f"{layer_name(layer)}.mlp.proj.bias", bias)
    return ()


def _cache_of_ones(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    announce_cache(draft, "FP8", 1.0)
    return ()


def _wider_activations(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    """Leaves room above the calibrated maxima, by the same factor everywhere."""
    if draft.quantization.get("quant_algo") == "W8A8_SQ_PER_CHANNEL":
        raise InapplicableError("smoothed with alpha 1 the scale is 1/127")
    found = False
    for rank, tensors in enumerate(draft.ranks):
        for name in [n for n in tensors if n.endswith(".activation_scaling_factor")]:
            stored, found = draft.get(rank, name), True
            draft.put(rank, name, (stored * np.float32(dose)).astype(stored.dtype))
    if not found:
        raise InapplicableError("there are no activation scales")
    return ()


def _defaults_said(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
    """States what the architecture's class assumes of fields that the config leaves out."""
    has = any(name.endswith("attention.qkv.bias") for name in draft.ranks[0])
    assumed = {"rotary_scaling": None, "q_scaling": 1.0, "attn_bias": has, "mlp_bias": False}
    for name, value in assumed.items():
        if draft.config.get(name) is None:
            draft.config[name] = value
    return ()


def _said(**fields: object) -> Edit:
    """Makes an edit that says, or leaves out, what means the same."""

    def edit(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
        for name, value in fields.items():
            if value is ...:
                draft.config.pop(name, None)
            else:
                draft.config[name] = value
        return ()

    return edit


def _exclusions(value: list[str]) -> Edit:
    def edit(draft: Draft, _target: Target, _dose: float) -> tuple[str, ...]:
        draft.quantization["exclude_modules"] = value
        return ()

    return edit


def _control(name: str, what: str, edit: Edit, dose: str | None = None, usual: float = 1.0,
             *, linear: bool = False) -> Fault:  # fmt: skip
    return Fault(name, None, what, edit, "", dose, usual, scope="linear" if linear else "layer")


CONTROLS = (
    _control("scales-bfloat16", "scales are stored rounded to bfloat16", _scales_in("bfloat16"),
             linear=True),
    _control("scales-float16", "scales are stored rounded to float16", _scales_in("float16"),
             linear=True),
    _control("tensor-order", "the tensors are in another order", _order),
    _control("file-notes", "the files carry notes of their own", _metadata),
    _control("unquantized-float32", "norms and embedding are stored in float32",
             _unquantized_in("float32")),
    _control("vocabulary-rounded-up", "the vocabulary is padded with rows of zeros", _padded,
             "rows", 32.0),
    _control("table-shared", "a tied table is stored once", _shared_table),
    _control("norm-folded", "a norm takes over a factor that what follows gives back", _folded,
             "factor, a power of two", 2.0),
    _control("bias-of-zeros", "a linear has a bias of zeros", _zero_bias),
    _control("cache-scales-one", "FP8 cache scales of exactly 1, as ModelOpt clamps them",
             _cache_of_ones),
    _control("activations-wider", "activation scales leave room above the maxima",
             _wider_activations, "factor", 1.25),
    _control("config-aliases", "other names for the same architecture and activation",
             _said(architecture="LLaMAForCausalLM", hidden_act="swiglu")),
    _control("config-defaults-said", "fields are stated that mean what is assumed",
             _defaults_said),
    _control("config-defaults-omitted", "fields are left out that are assumed as they were",
             _said(rotary_pct=..., residual_mlp=..., rmsnorm=..., lm_head_bias=...)),
    _control("config-notes", "fields that no decoder reads",
             _said(producer={"name": "another", "version": "1"}, logits_dtype="float32")),
    _control("exclusions-spelled-out", "TensorRT-LLM's own exclusions, spelled out",
             _exclusions(["*lm_head", "*vocab_embedding", "*router"])),
)  # fmt: skip
