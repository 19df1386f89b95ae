"""What a decoder is made of: its linears, what stays beside them, and what it keeps of each token.

The one description that parameters, bytes of weights, keys and values, and activations are counted
from. Known are gated decoders (Llama, Mistral, Qwen 2 and 3), mixtures of experts (Mixtral, Qwen 2
and 3 MoE), DeepSeek V2 and V3 with their latent attention, and Gemma 2 and 3; of any other
architecture nothing is guessed. The counts are held against the published ones in
`tests/unit/compatibility/test_sizes.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Annotated

from pydantic import Field

from enginekeeper.configs.form import Layers, Size
from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.errors import InputError

_Experts = Annotated[int, Field(ge=1, le=65536)]

PLAIN = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                   "Qwen3ForCausalLM"})  # fmt: skip
MIXTURES = frozenset({"MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"})
LATENT = frozenset({"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"})
GEMMAS = frozenset({"Gemma2ForCausalLM", "Gemma3ForCausalLM"})

KNOWN = PLAIN | MIXTURES | LATENT | GEMMAS
"""Architectures that are counted here."""

_QUERY_NORMS = frozenset({"Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Gemma3ForCausalLM"})
_QUERY_BIASES = frozenset({"Qwen2ForCausalLM", "Qwen2MoeForCausalLM"})


class SizedConfig(HfConfig):
    """The further fields of a config that say how large a model is."""

    architectures: Annotated[list[str], Field(min_length=1)]
    num_key_value_heads: Size
    num_local_experts: _Experts | None = None
    num_experts: _Experts | None = None
    n_routed_experts: _Experts | None = None
    n_shared_experts: _Experts | None = None
    num_experts_per_tok: _Experts | None = None
    moe_intermediate_size: Size | None = None
    shared_expert_intermediate_size: Size | None = None
    first_k_dense_replace: Annotated[int, Field(ge=0, le=1024)] | None = None
    moe_layer_freq: Layers | None = None
    decoder_sparse_step: Layers | None = None
    mlp_only_layers: list[int] | None = None
    kv_lora_rank: Size | None = None
    q_lora_rank: Size | None = None
    qk_nope_head_dim: Size | None = None
    qk_rope_head_dim: Size | None = None
    v_head_dim: Size | None = None

    def needed(self, name: str, where: str) -> int:
        """Returns a field that this architecture cannot be counted without; raises InputError."""
        value: int | None = getattr(self, name)
        if value is None:
            raise InputError(
                f"{name} is missing",
                where=where,
                expected=f"a whole number: a {self.architectures[0]} has it",
                remedy=self.remedy,
            )
        return value


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear of a layer, with those that are stored as one with it; `count` alike of them."""

    rows: int
    columns: int
    count: int = 1
    whole: bool = False
    """Whether every rank has all of it: what leads into latent attention."""

    @property
    def weights(self) -> int:
        """Numbers in all of them."""
        return self.count * self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Block:
    """Layers of a model that are alike."""

    layers: int
    linears: tuple[Linear, ...]
    """What a recipe quantizes."""

    beside: int
    """Numbers that stay as they are, and that every rank has: norms and routers; biases, which are
    few, are counted with them."""

    split: int
    """Keys and values of a token, one layer's, that ranks share out by heads."""

    whole: int
    """The same that every rank keeps whole: latent attention's."""

    attending: int
    """Numbers of one token that are alive at once in attention, hidden states not counted; ranks
    share them out."""

    thinking: int
    """The same between the other linears."""

    copied: int
    """Beside these, a token's copies for its experts: as wide as hidden states, so every rank has
    them whole."""

    def live(self, ranks: int) -> int:
        """Returns how many numbers of one token are alive at once on one of so many ranks."""
        return max(ceil(self.attending / ranks), ceil(self.thinking / ranks) + self.copied)

    @property
    def weights(self) -> int:
        """Numbers of one layer."""
        return self.beside + sum(linear.weights for linear in self.linears)


@dataclass(frozen=True)
class _Reader:
    config: SizedConfig
    head_dim: int
    where: str

    @property
    def name(self) -> str:
        return self.config.architectures[0]

    def blocks(self) -> tuple[Block, ...]:
        """Returns the layers, those that are alike together, in no order."""
        layers = range(self.config.num_hidden_layers)
        kinds = Counter(map(self._is_mixture, layers))
        return tuple(self._block(count, mixture=mixture) for mixture, count in kinds.items())

    def _block(self, layers: int, *, mixture: bool) -> Block:
        attention, beside, split, whole, attending = self._attention()
        experts, router, thinking, copied = self._experts() if mixture else self._gated()
        norms = (4 if self.name in GEMMAS else 2) * self.config.hidden_size
        return Block(
            layers=layers,
            linears=(*attention, *experts),
            beside=beside + router + norms,
            split=split,
            whole=whole,
            attending=attending,
            thinking=thinking,
            copied=copied,
        )

    def _attention(self) -> tuple[tuple[Linear, ...], int, int, int, int]:
        if self.name in LATENT:
            return self._latent_attention()
        config, hidden = self.config, self.config.hidden_size
        queries = config.num_attention_heads * self.head_dim
        keys = config.num_key_value_heads * self.head_dim
        beside = 2 * self.head_dim if self.name in _QUERY_NORMS else 0
        if self.name in _QUERY_BIASES:
            beside += queries + 2 * keys
        elif config.attention_bias:
            beside += queries + 2 * keys + hidden
        linears = (Linear(rows=queries + 2 * keys, columns=hidden),
                   Linear(rows=hidden, columns=queries))  # fmt: skip
        return linears, beside, 2 * keys, 0, 2 * queries + 2 * keys

    def _latent_attention(self) -> tuple[tuple[Linear, ...], int, int, int, int]:
        config = self.config
        hidden, heads = config.hidden_size, config.num_attention_heads
        latent = config.needed("kv_lora_rank", self.where)
        plain = config.needed("qk_nope_head_dim", self.where)
        turned = config.needed("qk_rope_head_dim", self.where)
        values = config.needed("v_head_dim", self.where)
        queries, low = heads * (plain + turned), config.q_lora_rank
        asking = (
            (Linear(rows=queries, columns=hidden),)
            if low is None
            else (Linear(rows=low, columns=hidden, whole=True), Linear(rows=queries, columns=low))
        )
        linears = (
            *asking,
            Linear(rows=latent + turned, columns=hidden, whole=True),
            Linear(rows=heads * (plain + values), columns=latent),
            Linear(rows=hidden, columns=heads * values),
        )
        alive = 2 * queries + 2 * heads * values
        return linears, latent + (low or 0), 0, latent + turned, alive

    def _gated(self) -> tuple[tuple[Linear, ...], int, int, int]:
        config, hidden, inner = self.config, self.config.hidden_size, self.config.intermediate_size
        bias = 2 * inner + hidden if config.mlp_bias else 0
        linears = (Linear(rows=inner, columns=hidden, count=2),
                   Linear(rows=hidden, columns=inner))  # fmt: skip
        return linears, bias, 2 * inner, 0

    def _experts(self) -> tuple[tuple[Linear, ...], int, int, int]:
        config, hidden = self.config, self.config.hidden_size
        number, inner = self._number(), self._inner()
        picked = config.needed("num_experts_per_tok", self.where)
        linears = [Linear(rows=inner, columns=hidden, count=2 * number),
                   Linear(rows=hidden, columns=inner, count=number)]  # fmt: skip
        router, shared = number * hidden, 0
        if self.name == "Qwen2MoeForCausalLM":
            shared = config.needed("shared_expert_intermediate_size", self.where)
            router += hidden  # how much of the shared expert is taken
        elif self.name in LATENT:
            shared = (config.n_shared_experts or 0) * inner
            router += number if self.name == "DeepseekV3ForCausalLM" else 0  # a bias of each
        if shared:
            linears += [Linear(rows=shared, columns=hidden, count=2),
                        Linear(rows=hidden, columns=shared)]  # fmt: skip
        # Each token's copies for its experts, in and out, and what is between them.
        return tuple(linears), router, 3 * picked * inner + 2 * shared, 2 * picked * hidden

    def _number(self) -> int:
        if self.name in LATENT:
            return self.config.needed("n_routed_experts", self.where)
        if self.config.num_experts is not None:
            return self.config.num_experts
        mixtral = self.name == "MixtralForCausalLM" or self.config.num_local_experts is not None
        return self.config.needed("num_local_experts" if mixtral else "num_experts", self.where)

    def _inner(self) -> int:
        if self.name == "MixtralForCausalLM":
            return self.config.intermediate_size
        return self.config.needed("moe_intermediate_size", self.where)

    def _is_mixture(self, layer: int) -> bool:
        config = self.config
        if self.name == "MixtralForCausalLM":
            return True
        if self.name in MIXTURES:
            step = config.decoder_sparse_step or 1
            return layer not in (config.mlp_only_layers or ()) and (layer + 1) % step == 0
        if self.name in LATENT and config.n_routed_experts is not None:
            return (
                layer >= (config.first_k_dense_replace or 0)
                and layer % (config.moe_layer_freq or 1) == 0
            )
        return False


def blocks_of(config: SizedConfig, head_dim: int, where: str) -> tuple[Block, ...]:
    """Returns what a model's layers are made of, none for an architecture that is not known.

    Raises InputError that names a field without which it cannot be counted.
    """
    if config.architectures[0] not in KNOWN:
        return ()
    return _Reader(config, head_dim, where).blocks()


def heaviest(blocks: tuple[Block, ...], layers: int) -> Iterator[tuple[Block, int]]:
    """Yields the heaviest layers of a model: what the rank with the most of them has at most."""
    left = layers
    for block in sorted(blocks, key=lambda one: -one.weights):
        taken = min(left, block.layers)
        if taken:
            yield block, taken
        left -= taken
