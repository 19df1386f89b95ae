"""Where each tensor of a Llama-family model is: its TensorRT-LLM name and its Hugging Face names.

Rules:

- `attention.qkv` is q, k and v one under the other; `mlp.fc` is HF's `gate_proj` and `mlp.gate`
  its `up_proj` (the names cross over);
- with tensor parallelism, column-parallel linears give each rank a slice of the rows of *each*
  part, row-parallel ones a slice of the columns;
- a per-tensor scale is shared by what the engine multiplies at once: q, k and v, and fc and gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig

Split = Literal["column", "row"]

EMBEDDING = "model.embed_tokens"
"""HF's name of the embedding table, without `.weight`."""


@dataclass(frozen=True)
class Geometry:
    """The sizes that decide the shapes of all tensors."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding table."""

    @classmethod
    def of(cls, config: HfConfig) -> Geometry:
        """Takes the sizes of the source model, and derives those its config leaves out."""
        heads, hidden = config.num_attention_heads, config.hidden_size
        return cls(
            layers=config.num_hidden_layers,
            hidden=hidden,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads or heads,
            head_size=config.head_dim or hidden // heads,
            vocabulary=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
        )


@dataclass(frozen=True)
class Part:
    """One HF linear inside a TensorRT-LLM linear."""

    module: str
    """HF module name, e.g. `model.layers.0.self_attn.q_proj`."""
    label: str
    """What a finding calls it: `q`, `k`, `v`, or empty for a linear of one part."""
    rows: int
    heads: int | None = None
    """How many attention heads its rows are, where they are heads."""


@dataclass(frozen=True)
class LinearPlace:
    """One linear of a TensorRT-LLM checkpoint and the HF linears it is made of."""

    name: str
    """e.g. `transformer.layers.0.attention.qkv`, with the layer counted over the whole model."""
    layer: int | None
    parts: tuple[Part, ...]
    columns: int
    split: Split
    scale_group: tuple[str, ...]
    """HF modules over which a per-tensor scale is shared."""
    norm: tuple[str, str] | None = None
    """The norm that feeds it, as (TensorRT-LLM, HF) names without `.weight`."""
    replicated: bool = False
    """Whether every tensor-parallel rank holds the whole."""

    @property
    def rows(self) -> int:
        """Output features of the whole linear."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class VectorPlace:
    """One unquantized vector: a norm's weight or a linear's bias, of one or more HF tensors."""

    name: str
    sources: tuple[str, ...]
    layer: int | None
    split: Split | None
    """`column` when ranks hold slices of each source; None when they all hold the whole."""
    parts: tuple[Part, ...] = ()
    """The parts of the linear whose bias it is."""


def layer_linears(layer: int, geometry: Geometry) -> Iterator[LinearPlace]:
    """Yields the five linears of a decoder layer in the order of a forward pass."""
    trt, hf = f"transformer.layers.{layer}", f"model.layers.{layer}"
    size, hidden, inner = geometry.head_size, geometry.hidden, geometry.intermediate
    kv_rows = geometry.kv_heads * size
    input_norm = (f"{trt}.input_layernorm", f"{hf}.input_layernorm")
    post_norm = (f"{trt}.post_layernorm", f"{hf}.post_attention_layernorm")
    qkv = (
        Part(f"{hf}.self_attn.q_proj", "q", geometry.heads * size, geometry.heads),
        Part(f"{hf}.self_attn.k_proj", "k", kv_rows, geometry.kv_heads),
        Part(f"{hf}.self_attn.v_proj", "v", kv_rows, geometry.kv_heads),
    )
    dense = (Part(f"{hf}.self_attn.o_proj", "", hidden),)
    fc = (Part(f"{hf}.mlp.gate_proj", "", inner),)
    gate = (Part(f"{hf}.mlp.up_proj", "", inner),)
    proj = (Part(f"{hf}.mlp.down_proj", "", hidden),)
    wide = _modules(fc) + _modules(gate)
    name = f"{trt}.attention.qkv"
    yield LinearPlace(name, layer, qkv, hidden, "column", _modules(qkv), input_norm)
    yield LinearPlace(
        f"{trt}.attention.dense", layer, dense, geometry.heads * size, "row", _modules(dense)
    )
    yield LinearPlace(f"{trt}.mlp.fc", layer, fc, hidden, "column", wide, post_norm)
    yield LinearPlace(f"{trt}.mlp.gate", layer, gate, hidden, "column", wide, post_norm)
    yield LinearPlace(f"{trt}.mlp.proj", layer, proj, inner, "row", _modules(proj))


def head_linear(geometry: Geometry, vocabulary: int) -> LinearPlace:
    """Returns the output head; `vocabulary` is the checkpoint's own, padding included."""
    module = EMBEDDING if geometry.tied else "lm_head"
    parts = (Part(module, "", vocabulary),)
    norm = ("transformer.ln_f", "model.norm")
    return LinearPlace("lm_head", None, parts, geometry.hidden, "column", (module,), norm)


def embedding_table(
    geometry: Geometry, vocabulary: int, checkpoint_config: TrtConfig
) -> LinearPlace:
    """Returns the embedding table, stored like a linear and split if the config says so."""
    parallel = bool(checkpoint_config.use_parallel_embedding)
    by_columns = checkpoint_config.embedding_sharding_dim == 1
    return LinearPlace(
        "transformer.vocab_embedding",
        None,
        (Part(EMBEDDING, "", vocabulary),),
        geometry.hidden,
        "row" if parallel and by_columns else "column",
        (EMBEDDING,),
        replicated=not parallel,
    )


def norms(geometry: Geometry) -> Iterator[VectorPlace]:
    """Yields every norm of the model; query and key norms only matter where the source has them."""
    for layer in range(geometry.layers):
        trt, hf = f"transformer.layers.{layer}", f"model.layers.{layer}"
        for ours, theirs in (
            ("input_layernorm", "input_layernorm"),
            ("post_layernorm", "post_attention_layernorm"),
            ("attention.q_layernorm", "self_attn.q_norm"),
            ("attention.k_layernorm", "self_attn.k_norm"),
        ):
            yield VectorPlace(f"{trt}.{ours}.weight", (f"{hf}.{theirs}.weight",), layer, None)
    yield VectorPlace("transformer.ln_f.weight", ("model.norm.weight",), None, None)


def biases(geometry: Geometry) -> Iterator[VectorPlace]:
    """Yields the bias of every linear, whether or not the model has it."""
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            sources = tuple(f"{part.module}.bias" for part in place.parts)
            split: Split | None = "column" if place.split == "column" else None
            yield VectorPlace(f"{place.name}.bias", sources, layer, split, place.parts)
    head = (Part("lm_head", "", geometry.vocabulary),)
    yield VectorPlace("lm_head.bias", ("lm_head.bias",), None, "column", head)


def _modules(parts: tuple[Part, ...]) -> tuple[str, ...]:
    return tuple(part.module for part in parts)
