"""What rules judge: a GPU and a toolchain, and the model as its config.json describes it.

A field that is missing is an error, not a default: a default is how a wrong engine is made that
looks right. Derived is what architectures define: `head_dim` where it is a quotient or a sum, and
that Gemma's embeddings are tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginekeeper.compatibility.sizes import GEMMAS, LATENT, Block, SizedConfig, blocks_of
from enginekeeper.configs.form import Size
from enginekeeper.errors import InputError

if TYPE_CHECKING:
    from enginekeeper.specs.gpus import GpuProduct
    from enginekeeper.specs.profiles import ToolchainProfile
    from enginekeeper.specs.variants import Variant

_QUOTIENT_HEADS = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM",
                             "Qwen2ForCausalLM", "Qwen2MoeForCausalLM"})  # fmt: skip
"""Architectures whose head size is hidden_size / num_attention_heads unless config.json says."""

_TIED = GEMMAS | {"Gemma3ForConditionalGeneration"}
"""Architectures whose files do not say that their embeddings are tied, because they always are."""


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

    blocks: tuple[Block, ...]
    """What its layers are made of; none where that is not known."""

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


class _Complete(SizedConfig):
    """A config that says everything rules look at."""

    tie_word_embeddings: bool
    max_position_embeddings: Size


def model_facts(values: Mapping[str, Any], where: str) -> ModelFacts:
    """Reads a Hugging Face config.json; raises InputError that names the field and the file.

    A multimodal config holds the language model's sizes in `text_config`.
    """
    config = _Complete.of(_with_what_is_defined(values), where)
    head_dim = _head_dim(config, where)
    blocks = blocks_of(config, head_dim, where)
    return ModelFacts(
        architecture=config.architectures[0],
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings,
        max_position=config.max_position_embeddings,
        context=_context(config),
        parameters=_parameters(config, blocks),
        blocks=blocks,
    )


def _with_what_is_defined(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adds what transformers leaves out of the files of an architecture that always has it so."""
    names = values.get("architectures")
    tied = isinstance(names, list) and bool(names) and names[0] in _TIED
    return {"tie_word_embeddings": True, **values} if tied else values


def _head_dim(config: _Complete, where: str) -> int:
    if config.architectures[0] in LATENT:
        parts = ("qk_nope_head_dim", "qk_rope_head_dim")
        return sum(config.needed(name, where) for name in parts)
    if config.head_dim is not None:
        return config.head_dim
    if config.architectures[0] not in _QUOTIENT_HEADS:
        raise InputError(
            "head_dim is missing",
            where=where,
            expected="a whole number: this architecture does not derive it",
            remedy=config.remedy,
        )
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            "num_attention_heads does not divide hidden_size, and there is no head_dim",
            where=where,
            actual=f"{config.hidden_size} / {config.num_attention_heads}",
            expected="a whole number of columns for each head",
        )
    return config.hidden_size // config.num_attention_heads


def _context(config: _Complete) -> int:
    """Applies the RoPE scalings that extend the context beyond what the config names.

    llama3 and longrope configs name the extended length already; linear, dynamic and yarn ones
    name the trained length and a factor.
    """
    longest = config.max_position_embeddings
    blocks = config.rope_parameters or {}
    # Gemma keeps one for each kind of layer.
    scaling = blocks.get("full_attention") or blocks.get("") or config.rope_scaling
    if scaling is None or scaling.factor is None:
        return longest
    if scaling.kind not in {"linear", "dynamic", "yarn"}:
        return longest
    trained = scaling.original_max_position_embeddings or longest
    return max(longest, int(trained * scaling.factor))


def _parameters(config: _Complete, blocks: tuple[Block, ...]) -> int | None:
    if not blocks:
        return None
    tables = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    layers = sum(block.layers * block.weights for block in blocks)
    return tables + layers + config.hidden_size
