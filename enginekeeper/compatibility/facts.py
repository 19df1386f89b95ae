"""What rules judge: a GPU and a toolchain, and the model as its config.json describes it.

A field that is missing is an error, not a default: a default is how a wrong engine is made that
looks right. The one thing derived is `head_dim`, for architectures that define it as a quotient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginekeeper.errors import InputError

if TYPE_CHECKING:
    from enginekeeper.specs.gpus import GpuProduct
    from enginekeeper.specs.profiles import ToolchainProfile
    from enginekeeper.specs.variants import Variant

_QUOTIENT_HEADS = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
"""Architectures whose head size is hidden_size / num_attention_heads unless config.json says."""

_GATED_DECODERS = _QUOTIENT_HEADS | {"Qwen3ForCausalLM"}
"""Architectures whose number of parameters the formula of `_parameters` gives exactly."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The sizes of one model; counts, except where a unit is given."""

    architecture: str
    """Hugging Face architecture, such as LlamaForCausalLM."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    """Query heads."""

    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    """Whether the output projection is the embedding table."""

    max_position: int
    """Positions the config names, before any RoPE scaling that extends them."""

    context: int
    """Tokens the model was made to attend over, RoPE scaling included."""

    parameters: int | None
    """Trained parameters, tied ones once; None if this architecture's formula is not known."""

    @property
    def attention_width(self) -> int:
        """Columns that the attention's output projection reads."""
        return self.num_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The quantized linears of one layer: rows (outputs) and columns (inputs) of each."""
        hidden, inner, kv = self.hidden_size, self.intermediate_size, self.num_kv_heads
        return {
            "q_proj": (self.attention_width, hidden),
            "k_proj": (kv * self.head_dim, hidden),
            "v_proj": (kv * self.head_dim, hidden),
            "o_proj": (hidden, self.attention_width),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What is known of a variant before its model is on this machine."""

    gpu: GpuProduct | None
    """None for the CPU."""

    toolchain: ToolchainProfile

    @property
    def memory(self) -> int | None:
        """Bytes of device memory; None for the CPU."""
        return None if self.gpu is None else self.gpu.memory


@dataclass(frozen=True, kw_only=True)
class Facts(TargetFacts):
    """Everything a rule may look at besides the variant itself."""

    model: ModelFacts


def target_facts(variant: Variant) -> TargetFacts:
    """Returns a variant's facts without those of its model, from the tables it refers to."""
    return TargetFacts(gpu=variant.target.product, toolchain=variant.profile)


def facts_of(variant: Variant, model: ModelFacts) -> Facts:
    """Returns all facts of a variant."""
    return Facts(model=model, gpu=variant.target.product, toolchain=variant.profile)


def model_facts(config: Mapping[str, Any], where: str) -> ModelFacts:
    """Reads a Hugging Face config.json; raises InputError that names the field and the file.

    A multimodal config holds the language model's sizes in `text_config`.
    """
    reader = _Reader(config, where)
    architecture = reader.architecture()
    reader = reader.language_model()
    hidden, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    sizes = _Sizes(
        hidden=hidden,
        inner=reader.count("intermediate_size"),
        layers=reader.count("num_hidden_layers"),
        heads=heads,
        kv_heads=reader.count("num_key_value_heads"),
        head_dim=_head_dim(reader, architecture, hidden, heads),
        vocab=reader.count("vocab_size"),
    )
    tied = reader.flag("tie_word_embeddings")
    max_position = reader.count("max_position_embeddings")
    return ModelFacts(
        architecture=architecture,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocab,
        tied_embeddings=tied,
        max_position=max_position,
        context=_context(reader, max_position),
        parameters=_parameters(sizes, architecture, reader, tied=tied),
    )


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


@dataclass(frozen=True)
class _Reader:
    """Fields of one JSON object, each of the right kind or an error."""

    values: Mapping[str, Any]
    where: str

    def architecture(self) -> str:
        names = self.values.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self.wrong("architectures", "a list that names the model's class")
        return names[0]

    def language_model(self) -> _Reader:
        nested = self.values.get("text_config")
        if nested is None:
            return self
        if not isinstance(nested, Mapping):
            raise self.wrong("text_config", "an object")
        # Whether embeddings are tied is a matter of the whole model, and older files say it there.
        outer = {k: self.values[k] for k in ("tie_word_embeddings",) if k in self.values}
        return _Reader({**outer, **nested}, f"{self.where}: text_config")

    def count(self, name: str) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(name, "a whole number, at least 1")
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def wrong(self, name: str, expected: str) -> InputError:
        missing = name not in self.values or self.values[name] is None
        return InputError(
            f"{name} is missing" if missing else f"{name} is not usable",
            where=self.where,
            actual=None if missing else str(self.values[name])[:80],
            expected=expected,
            remedy="take config.json from the model's own source; Enginekeeper assumes no defaults",
        )


def _head_dim(reader: _Reader, architecture: str, hidden: int, heads: int) -> int:
    if reader.values.get("head_dim") is not None:
        return reader.count("head_dim")
    if architecture not in _QUOTIENT_HEADS:
        raise reader.wrong("head_dim", "a whole number: this architecture does not derive it")
    if hidden % heads:
        raise InputError(
            "num_attention_heads does not divide hidden_size, and there is no head_dim",
            where=reader.where,
            actual=f"{hidden} / {heads}",
            expected="a whole number of columns for each head",
        )
    return hidden // heads


def _context(reader: _Reader, max_position: int) -> int:
    """Applies the RoPE scalings that extend the context beyond what the config names.

    llama3 and longrope configs name the extended length already; linear, dynamic and yarn ones
    name the trained length and a factor.
    """
    scaling = reader.values.get("rope_parameters") or reader.values.get("rope_scaling")
    if not isinstance(scaling, Mapping):
        return max_position
    scaling = scaling.get("full_attention", scaling)  # Gemma keeps one for each kind of layer
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling.get("factor")
    if kind not in {"linear", "dynamic", "yarn"} or not isinstance(factor, (int, float)):
        return max_position
    trained = scaling.get("original_max_position_embeddings", max_position)
    return max(max_position, int(trained * factor))


def _parameters(sizes: _Sizes, architecture: str, reader: _Reader, *, tied: bool) -> int | None:
    if architecture not in _GATED_DECODERS:
        return None
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    attention = sizes.hidden * (2 * queries + 2 * keys)
    layer = attention + 3 * sizes.hidden * sizes.inner + 2 * sizes.hidden
    if architecture == "Qwen3ForCausalLM":
        layer += 2 * sizes.head_dim  # norms of queries and keys
    if architecture == "Qwen2ForCausalLM":
        layer += queries + 2 * keys  # biases of q, k and v
    elif reader.values.get("attention_bias"):
        layer += queries + 2 * keys + sizes.hidden
    if reader.values.get("mlp_bias"):
        layer += 2 * sizes.inner + sizes.hidden
    tables = sizes.vocab * sizes.hidden * (1 if tied else 2)
    return tables + sizes.layers * layer + sizes.hidden
