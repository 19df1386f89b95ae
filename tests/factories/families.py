"""A Llama's real weights, laid out again as models of other families and with other traits.

Random numbers are too easy: trained weights are heavy-tailed and correlated. So every matrix here
is made of rows and columns of the donor's, a few of its layers are taken, and its vocabulary is
cut. What comes out has the structure of the family and says nothing sensible.

Rules:

- heads that the donor's layer does not have are those of the next layers;
- what the donor has no example of (biases, query and key norms) is drawn from a fixed seed, with
  the heavy tails that published models have;
- numbers are made in float32 and rounded once, to the dtype of the family's files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ml_dtypes import bfloat16

from enginekeeper.validation.tensor_files import PlannedTensor, TensorFile, write_tensors

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]
Trait = Callable[[Weights, "Layout"], None]

_DTYPES = {"bfloat16": bfloat16, "float16": np.float16, "float32": np.float32}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Family:
    """What sets a family, or a variation of one, apart."""

    architecture: str = "LlamaForCausalLM"
    model_type: str = "llama"
    heads: int = 8
    kv_heads: int = 2
    wide: int = 1
    """A head is as many of the donor's heads together."""
    tied: bool = True
    qkv_bias: bool = False
    dense_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    dtype: str = "bfloat16"
    """Of the files."""
    shards: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    traits: tuple[Trait, ...] = ()


@dataclass(frozen=True)
class Cut:
    """How much of the donor is taken."""

    layers: tuple[int, ...]
    vocabulary: int


@dataclass(frozen=True)
class Layout:
    """The sizes of one laid-out model."""

    family: Family
    layers: int
    hidden: int
    inner: int
    head: int
    vocabulary: int


class Donor:
    """A Llama's directory, read tensor by tensor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = json.loads((directory / "config.json").read_text())
        self._file = TensorFile.open(directory / "model.safetensors")

    def tensor(self, name: str) -> Floats:
        """Returns a tensor as float32."""
        return np.array(self._file[name].read()).astype(np.float32)

    def layer(self, layer: int, name: str) -> Floats:
        """Returns a tensor of a layer, counted around the end."""
        number = layer % self.config["num_hidden_layers"]
        return self.tensor(f"model.layers.{number}.{name}.weight")

    def heads(self, layer: int, part: str, rows: int) -> Floats:
        """Returns rows of a projection, continued with those of the next layers."""
        taken, pieces = 0, []
        while taken < rows:
            pieces.append(self.layer(layer, f"self_attn.{part}_proj"))
            taken += len(pieces[-1])
            layer += 1
        return np.concatenate(pieces)[:rows]

    def output(self, layer: int, columns: int) -> Floats:
        """Returns columns of an output projection, continued with those of the next layers."""
        taken, pieces = 0, []
        while taken < columns:
            pieces.append(self.layer(layer, "self_attn.o_proj"))
            taken += pieces[-1].shape[1]
            layer += 1
        return np.concatenate(pieces, axis=1)[:, :columns]


def lay_out(family: Family, donor: Path, cut: Cut, directory: Path) -> Path:
    """Writes the family's model as a Hugging Face directory, with a tokenizer if the donor has."""
    source = Donor(donor)
    layout = _layout(family, source, cut)
    weights = _weights(layout, source, cut)
    for trait in family.traits:
        trait(weights, layout)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(_config(layout, source), indent=1))
    _write(weights, family, directory)
    if (donor / "tokenizer.json").is_file():
        _write_tokenizer(donor, cut.vocabulary, directory)
    return directory


def _layout(family: Family, donor: Donor, cut: Cut) -> Layout:
    config = donor.config
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return Layout(
        family,
        len(cut.layers),
        config["hidden_size"],
        config["intermediate_size"],
        head * family.wide,
        cut.vocabulary,
    )


def _weights(layout: Layout, donor: Donor, cut: Cut) -> Weights:
    table = donor.tensor("model.embed_tokens.weight")[: cut.vocabulary]
    weights = {"model.embed_tokens.weight": table}
    for number, layer in enumerate(cut.layers):
        prefix = f"model.layers.{number}."
        named = _layer(layout, donor, layer)
        weights |= {f"{prefix}{name}": values for name, values in named.items()}
    weights["model.norm.weight"] = donor.tensor("model.norm.weight")
    if not layout.family.tied:
        # Another real matrix of that shape does not exist: columns of the table, louder or not.
        loud = np.exp(_random("lm_head").normal(0, 0.5, layout.hidden))
        weights["lm_head.weight"] = (table[:, ::-1] * loud).astype(np.float32)
    return weights


def _layer(layout: Layout, donor: Donor, layer: int) -> Weights:
    family, size = layout.family, layout.head
    weights: Weights = {}
    for part, heads in (("q", family.heads), ("k", family.kv_heads), ("v", family.kv_heads)):
        name = f"self_attn.{part}_proj"
        weights[f"{name}.weight"] = donor.heads(layer, part, heads * size)
        if family.qkv_bias:
            weights[f"{name}.bias"] = _bias(f"{layer}.{part}", heads * size, loud=part != "v")
        if family.qk_norm and part != "v":
            weights[f"self_attn.{part}_norm.weight"] = _head_norm(f"{layer}.{part}", size)
    weights["self_attn.o_proj.weight"] = donor.output(layer, family.heads * size)
    if family.dense_bias:
        weights["self_attn.o_proj.bias"] = _bias(f"{layer}.o", layout.hidden, loud=False)
    for part in ("gate", "up", "down"):
        weights[f"mlp.{part}_proj.weight"] = donor.layer(layer, f"mlp.{part}_proj")
        if family.mlp_bias:
            rows = len(weights[f"mlp.{part}_proj.weight"])
            weights[f"mlp.{part}_proj.bias"] = _bias(f"{layer}.{part}", rows, loud=False)
    for name in _NORMS:
        weights[f"{name}.weight"] = donor.layer(layer, name)
    return weights


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng([7, *name.encode()])


def _bias(name: str, rows: int, *, loud: bool) -> Floats:
    """Returns a bias with heavy tails; those of Qwen2's keys and queries reach some hundreds."""
    random = _random(name)
    values = random.standard_t(2, rows) * (0.5 if loud else 0.05)
    if loud:
        chosen = random.choice(rows, 3, replace=False)
        values[chosen] = np.array([-130.0, 88.5, 317.0])
    return values.astype(np.float32)


def _head_norm(name: str, size: int) -> Floats:
    """Returns the weight of a query or key norm; those of Qwen3 lie between 0 and some tens."""
    random = _random(name)
    values = np.exp(random.normal(0.3, 0.6, size))
    values[random.choice(size, 2, replace=False)] = np.array([0.0, 42.0])
    return values.astype(np.float32)


def outliers(weights: Weights, layout: Layout) -> None:
    """Makes a few input columns of what follows a norm 50 to 500 times as loud.

    For half of them the norm is as much quieter, as a trained model has it.
    """
    random = _random("outliers")
    gains = np.array([50.0, 120.0, 300.0, 500.0], np.float32)
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        fed = (("self_attn.q", "self_attn.k", "self_attn.v"), ("mlp.gate", "mlp.up"))
        for norm, linears in zip(_NORMS, fed, strict=True):
            columns = random.choice(layout.hidden, len(gains), replace=False)
            for linear in linears:
                weights[f"{prefix}{linear}_proj.weight"][:, columns] *= gains
            weights[f"{prefix}{norm}.weight"][columns[::2]] /= gains[::2]
        down = weights[f"{prefix}mlp.down_proj.weight"]
        rows = random.choice(len(down), 2, replace=False)
        down[rows] *= np.float32(40)


def dead(weights: Weights, layout: Layout) -> None:
    """Makes neurons that do nothing, columns and a head of zeros, and equal unused tokens."""
    random, size = _random("dead"), layout.head
    for layer in range(layout.layers):
        prefix = f"model.layers.{layer}."
        gate, up, down = (weights[f"{prefix}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
        nearly, wholly = random.choice(len(up), (2, 6), replace=False)
        for matrix in (gate, up):
            matrix[nearly] *= np.float32(1e-6)
            matrix[wholly] = 0
        down[:, nearly] *= np.float32(1e-6)
        down[:, wholly] = 0
        columns = random.choice(layout.hidden, 4, replace=False)
        for part in "qkv":
            weights[f"{prefix}self_attn.{part}_proj.weight"][:, columns] = 0
        weights[f"{prefix}self_attn.q_proj.weight"][-size:] = 0
        weights[f"{prefix}self_attn.o_proj.weight"][:, -size:] = 0
    unused = slice(layout.vocabulary - layout.vocabulary // 16, layout.vocabulary)
    for name in _TABLES:
        if name in weights:
            weights[name][unused] = weights[name][unused].mean(axis=0)


def repeated(weights: Weights, layout: Layout) -> None:
    """Makes the last layer the one before it, as models grown by copying layers have it."""
    last, other = f"model.layers.{layout.layers - 1}.", f"model.layers.{layout.layers - 2}."
    for name in [name for name in weights if name.startswith(last)]:
        weights[name] = weights[other + name.removeprefix(last)].copy()


def loud_norms(weights: Weights, layout: Layout) -> None:
    """Spreads the weights of the norms over five orders of magnitude, with zeros and signs."""
    random = _random("norms")
    for name in sorted(weights):
        if name.endswith("norm.weight") and "self_attn" not in name:
            spread = np.exp(random.normal(0, 2.0, layout.hidden)).astype(np.float32)
            weights[name] *= spread
            weights[name][random.choice(layout.hidden, 3, replace=False)] *= np.float32(-1)
            weights[name][random.choice(layout.hidden, 2, replace=False)] = 0


def full_mantissas(weights: Weights, layout: Layout) -> None:
    """Puts digits behind those that the donor's bfloat16 has."""
    del layout
    for name in sorted(weights):
        noise = _random(name).uniform(-1, 1, weights[name].shape) * 2.0**-9
        weights[name] = (weights[name] * (1 + noise)).astype(np.float32)


def _config(layout: Layout, donor: Donor) -> dict[str, Any]:
    family = layout.family
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": layout.hidden,
        "intermediate_size": layout.inner,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": family.heads,
        "num_key_value_heads": family.kv_heads,
        "head_dim": layout.head,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": family.tied,
        "vocab_size": layout.vocabulary,
        "bos_token_id": donor.config.get("bos_token_id"),
        "eos_token_id": donor.config.get("eos_token_id"),
        "dtype": family.dtype,
        "transformers_version": "5.14.1",
        "use_cache": True,
        **family.config,
    }


def _write(weights: Weights, family: Family, directory: Path) -> None:
    dtype = _DTYPES[family.dtype]
    tensors = [PlannedTensor.of(name, values.astype(dtype)) for name, values in weights.items()]
    if family.shards == 1:
        write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
        return
    where: dict[str, str] = {}
    each = math.ceil(len(tensors) / family.shards)
    for number in range(family.shards):
        name = f"model-{number + 1:05}-of-{family.shards:05}.safetensors"
        some = tensors[number * each : (number + 1) * each]
        where |= {tensor.name: name for tensor in some}
        write_tensors(directory / name, some, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_tokenizer(donor: Path, vocabulary: int, directory: Path) -> None:
    """Keeps the first ids of a BPE: its merges are in the order of the ids that they make."""
    document = json.loads((donor / "tokenizer.json").read_text())
    model = document["model"]
    alphabet = len(model["vocab"]) - len(model["merges"])
    model["vocab"] = {word: one for word, one in model["vocab"].items() if one < vocabulary}
    model["merges"] = model["merges"][: vocabulary - alphabet]
    (directory / "tokenizer.json").write_text(json.dumps(document))
    settings = (donor / "tokenizer_config.json").read_text()
    (directory / "tokenizer_config.json").write_text(settings)


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
_QWEN2 = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28}
_BOTH = {"attention_bias": True, "mlp_bias": True}

FAMILIES: dict[str, Family] = {
    "llama3": Family(tied=False, shards=3, config={"rope_parameters": _LLAMA3}),
    "mistral": Family(
        "MistralForCausalLM", "mistral", tied=False, dtype="float16", shards=2,
        config={"sliding_window": 48},
    ),
    "qwen2": Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True, config=_QWEN2),
    "qwen2-window": Family(
        "Qwen2ForCausalLM", "qwen2", heads=6, kv_heads=2, tied=False, qkv_bias=True, shards=2,
        config={"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 2},
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", "qwen3", heads=4, wide=2, qk_norm=True,
        config={**_QWEN2, "attention_bias": False},
    ),
    "one-key-head": Family(kv_heads=1, config={"attention_bias": False, "mlp_bias": False}),
    "biases": Family(
        kv_heads=4, qkv_bias=True, dense_bias=True, mlp_bias=True, config=_BOTH, tied=False
    ),
    "outliers": Family(traits=(outliers,)),
    "dead": Family(tied=False, traits=(dead, repeated)),
    "norms": Family(traits=(loud_norms,)),
    "float32": Family(dtype="float32", traits=(full_mantissas,)),
}  # fmt: skip
