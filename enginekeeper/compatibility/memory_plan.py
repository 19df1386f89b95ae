"""What fits on each GPU: weights, keys and values, activations and workspace.

Weights and keys and values are exact (`estimates.py`); activations and workspace are by formulas
that were fitted to logs of others (`activations.py`). TensorRT-LLM gives 0.9 of what all the rest
leaves to keys and values, when it starts. vLLM takes 0.9 of the whole and gives keys and values
what the rest leaves of it: it starts with whatever that is, so long as one request fits, and puts
requests off or starts them again when it runs out. The rule that refuses a variant
(`model-fits-memory`) counts weights and keys and values alone, which is what is certain; what the
estimates say, `activations-fit-memory` warns of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from enginekeeper.compatibility.activations import engine_beside, vllm_beside
from enginekeeper.compatibility.capacity import KV_SHARE, countable_memory
from enginekeeper.compatibility.estimates import kv_bytes_per_rank, weight_bytes_per_rank

if TYPE_CHECKING:
    from enginekeeper.compatibility.facts import Facts, ModelFacts
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

    activations: int
    workspace: int
    """Of TensorRT-LLM, for the declared limits: estimates."""

    rest: int
    """What is left; below zero if it does not fit."""

    engine_tokens: int
    """Tokens whose keys and values TensorRT-LLM has room for."""

    vllm_tokens: int
    """The same under vLLM: the recipe's weights, if vLLM can read them."""

    vllm_rest: int
    """What of vLLM's share is left beside weights and the declared limits' keys and values."""

    largest_batch: int
    """Requests of max_seq_len that fit at once."""

    longest_sequence: int
    """Tokens of each of max_batch_size requests that fit."""

    vllm_batch: int
    """Requests of max_seq_len that vLLM has room for; none: it does not start."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return asdict(self)


def memory_plan(variant: Variant, facts: Facts) -> MemoryPlan | None:
    """Returns what fits; None on the CPU, and for a model whose size is not known."""
    memory = countable_memory(variant, facts)
    if memory is None:
        return None
    limits, model = variant.limits, facts.model
    weights = weight_bytes_per_rank(variant, model)
    cache = kv_bytes_per_rank(variant, model)
    per_token = cache / limits.cached_tokens
    beside = engine_beside(variant, model, limits.max_batch_size)
    of_vllm = int(memory * VLLM_SHARE) - _vllm_weights(variant, model)

    def engine_room(batch: int) -> int:
        other = engine_beside(variant, model, batch).total
        return max(0, int((memory - weights - other) * KV_SHARE / per_token))

    def vllm_left(batch: int) -> int:
        return of_vllm - vllm_beside(variant, model, batch).total

    def vllm_room(batch: int) -> int:
        return max(0, int(vllm_left(batch) / per_token))

    tokens = engine_room(limits.max_batch_size)
    return MemoryPlan(
        memory=memory,
        weights=weights,
        kv_cache=cache,
        activations=beside.activations,
        workspace=beside.workspace,
        rest=memory - weights - cache - beside.total,
        engine_tokens=tokens,
        vllm_tokens=vllm_room(limits.max_batch_size),
        vllm_rest=vllm_left(limits.max_batch_size) - cache,
        largest_batch=_largest(engine_room, limits.max_seq_len),
        longest_sequence=tokens // limits.max_batch_size,
        vllm_batch=_largest(vllm_room, limits.max_seq_len),
    )


def _vllm_weights(variant: Variant, model: ModelFacts) -> int:
    """Returns what vLLM loads: a tied table is there once, where one rank has both ends."""
    weights, parallel = weight_bytes_per_rank(variant, model), variant.parallel
    if not model.tied_embeddings or parallel.pipeline > 1:
        return weights
    return weights - 2 * model.vocab_size * model.hidden_size // parallel.tensor


def _largest(room: Callable[[int], int], length: int) -> int:
    """Returns the largest batch whose requests fit into the room that it leaves."""
    fits, fails = 0, room(1) // length + 1  # more requests leave no more room
    while fails - fits > 1:
        batch = (fits + fails) // 2
        if room(batch) >= batch * length:
            fits = batch
        else:
            fails = batch
    return fits
