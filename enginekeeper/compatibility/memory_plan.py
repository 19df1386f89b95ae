"""What fits on each GPU: weights, keys and values, and what is left for the rest.

Exact for weights and for keys and values (see `estimates.py`); **activations and workspace are not
computed**: no formula for them was verified. They have to live in the share that neither builder
gives to keys and values, which is the same rule that refuses a variant (`model-fits-memory`).
TensorRT-LLM takes 0.9 of what weights leave, vLLM 0.9 of the whole less the weights, each by
default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from enginekeeper.compatibility.capacity import KV_SHARE
from enginekeeper.compatibility.estimates import kv_bytes_per_rank, weight_bytes_per_rank

if TYPE_CHECKING:
    from enginekeeper.compatibility.facts import Facts
    from enginekeeper.specs.variants import Variant

VLLM_SHARE = 0.9
"""vLLM's default `gpu_memory_utilization`: of the whole GPU, weights included."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """One variant on each of its GPUs; bytes, and tokens over all requests together."""

    memory: int
    weights: int
    kv_cache: int
    """Keys and values of the declared limits."""

    rest: int
    """What is left for activations, workspace and CUDA; below zero if it does not fit."""

    engine_tokens: int
    """Tokens whose keys and values TensorRT-LLM has room for."""

    vllm_tokens: int
    """The same under vLLM: the recipe's weights, if vLLM can read them."""

    largest_batch: int
    """Requests of max_seq_len that fit at once."""

    longest_sequence: int
    """Tokens of each of max_batch_size requests that fit."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return asdict(self)


def memory_plan(variant: Variant, facts: Facts) -> MemoryPlan | None:
    """Returns what fits; None on the CPU, and for a model whose size is not known."""
    memory = variant.target.memory or facts.memory
    if memory is None or facts.model.parameters is None:
        return None
    limits = variant.limits
    weights = weight_bytes_per_rank(variant, facts.model)
    cache = kv_bytes_per_rank(variant, facts.model)
    per_token = cache / limits.cached_tokens
    left = memory - weights
    tokens = max(0, int(left * KV_SHARE / per_token))
    return MemoryPlan(
        memory=memory,
        weights=weights,
        kv_cache=cache,
        rest=left - cache,
        engine_tokens=tokens,
        vllm_tokens=max(0, int((memory * VLLM_SHARE - weights) / per_token)),
        largest_batch=tokens // limits.max_seq_len,
        longest_sequence=tokens // limits.max_batch_size,
    )
