"""What has to fit: weights and KV cache into memory, requests into the model's context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.activations import engine_beside
from enginekeeper.compatibility.estimates import kv_bytes_per_rank, weight_bytes_per_rank
from enginekeeper.compatibility.facts import Facts
from enginekeeper.compatibility.rules import Finding, Rule, Severity

if TYPE_CHECKING:
    from enginekeeper.specs.variants import Variant

_GIB = 1 << 30

KV_SHARE = 0.9
"""Share of the memory that weights leave which TensorRT-LLM gives to the KV cache by default
(`free_gpu_memory_fraction`); the rest is for activations, CUDA and fragmentation."""


def countable_memory(variant: Variant, facts: Facts) -> int | None:
    """Returns the memory of each GPU; None for the CPU, and where the model's size is not known."""
    return None if facts.model.parameters is None else variant.target.memory or facts.memory


def _memory(variant: Variant, facts: Facts) -> Finding | None:
    memory = countable_memory(variant, facts)
    if memory is None:
        return None
    weights = weight_bytes_per_rank(variant, facts.model)
    cache = kv_bytes_per_rank(variant, facts.model)
    if weights + cache / KV_SHARE <= memory:
        return None
    tokens = variant.limits.cached_tokens
    return Finding(
        actual=f"{weights / _GIB:.1f} GiB of weights and {cache / _GIB:.1f} GiB of keys and "
        f"values for {tokens} tokens, on each GPU",
        expected=f"weights + KV cache / {KV_SHARE} within {memory / _GIB:.1f} GiB",
        remedy=_room(memory - weights, cache, tokens),
    )


def _activations(variant: Variant, facts: Facts) -> Finding | None:
    memory = countable_memory(variant, facts)
    if memory is None:
        return None
    weights = weight_bytes_per_rank(variant, facts.model)
    wanted = weights + kv_bytes_per_rank(variant, facts.model) / KV_SHARE
    beside = engine_beside(variant, facts.model, variant.limits.max_batch_size)
    if not memory - beside.total < wanted <= memory:  # what does not fit anyway is refused
        return None
    return Finding(
        actual=f"{wanted / _GIB:.1f} GiB with the KV cache, {beside.activations / _GIB:.1f} GiB of "
        f"activations and {beside.workspace / _GIB:.1f} GiB of workspace, on each GPU",
        expected=f"{memory / _GIB:.1f} GiB together",
        remedy="lower max_batch_size, max_num_tokens or kv_cache_tokens: see ek plan --memory",
    )


def _unknown_size(_variant: Variant, facts: Facts) -> Finding | None:
    if facts.gpu is None or facts.model.parameters is not None:
        return None
    return Finding(
        actual=f"{facts.model.architecture} on {facts.gpu.name}",
        expected="an architecture whose size config.json determines",
        remedy="make sure yourself that weights and KV cache fit",
    )


def _room(left: int, cache: int, tokens: int) -> str:
    fitting = int(left * KV_SHARE * tokens / cache)
    if fitting < 1:
        return "use more GPUs, a smaller recipe or a larger GPU: the weights alone do not fit"
    return f"{fitting} tokens fit: lower limits, or set limits.kv_cache_tokens"


def _context(variant: Variant, facts: Facts) -> Finding | None:
    if variant.limits.max_seq_len <= facts.model.context:
        return None
    return Finding(
        actual=f"max_seq_len {variant.limits.max_seq_len}",
        expected=f"at most {facts.model.context} tokens",
        remedy="lower limits.max_seq_len",
    )


CAPACITY_RULES = (
    Rule(
        identifier="model-fits-memory",
        statement="Weights and the KV cache of the declared limits fit into each GPU's memory.",
        source="nvidia.github.io/TensorRT-LLM/reference/memory.html; 2 x layers x KV heads x head "
        "size x bytes for each token; free_gpu_memory_fraction 0.9 of what weights leave",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_memory,
    ),
    Rule(
        identifier="activations-fit-memory",
        statement="Activations and workspace fit beside weights and KV cache, by an estimate.",
        source="compatibility/activations.py: fitted to what TensorRT-LLM printed in "
        "NVIDIA/TensorRT-LLM issue 1188 and reference/memory.html; not measured here",
        severity=Severity.WARN,
        needs=Facts,
        predicate=_activations,
    ),
    Rule(
        identifier="size-is-known",
        statement="Whether a model fits is known only for architectures with a size formula.",
        source="the sizes that are known: Llama, Mistral, Qwen 2 and 3, their mixtures of experts, "
        "DeepSeek V2 and V3, Gemma 2 and 3",
        severity=Severity.WARN,
        needs=Facts,
        predicate=_unknown_size,
    ),
    Rule(
        identifier="sequence-within-context",
        statement="Requests longer than the model's context give text the model was not made for.",
        source="config.json: max_position_embeddings and RoPE scaling",
        severity=Severity.WARN,
        needs=Facts,
        predicate=_context,
    ),
)
