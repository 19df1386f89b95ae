"""What a server takes of a GPU beside weights and keys and values, from a spec's limits.

No GPU was at hand: the formula of TensorRT's execution context was fitted to what TensorRT-LLM
printed for others, and gives three of these logs to within 0.02 MiB. With A tokens of
`max_num_tokens`, B requests, hidden size H, inner size I (twice that alive: gate and up) and
vocabulary V, two bytes for each number:

    A x (2 I + 2 H)  +  the larger of B x V and 32 MiB

| log | printed | formula |
|---|---|---|
| Qwen2.5-0.5B INT8, B 2048, A 8192 (NVIDIA/TensorRT-LLM issue 1188) | 773.51 MiB | 773.5 MiB |
| the same, B 1, A 512 | 43.26 MiB | 43.25 MiB |
| Qwen2-1.5B INT4, B 2048, A 8192 (0.17.0.post1) | 921.51 MiB | 921.5 MiB |
| Llama-2-7B FP8 (reference/memory.html; A the default, B not said) | 1134.01 MiB | 472 MiB + B's |

Rules:

- activations in FP8, INT8 or FP4 take 2.4 times that (`_ROUNDED`), by the last log: NVIDIA says
  that it may be larger there, and not how much;
- runtime buffers are 2.3 and the decoder 5 times B x V in float32, by the log of issue 1188 (2.3 in
  another of 0.12, whose decoder took 9);
- 0.75 GiB is what no line names in the log of memory.html: the CUDA context, kernels and libraries;
- ranks share out I, and not H, nor the copies of a token for its experts; of mixtures and latent
  attention the same is reckoned from their shapes, and held against no log;
- vLLM is reckoned as one forward pass of A tokens and logits of B in 16 and twice in 32 bits: its
  own profile at start is the measurement, and was not seen for this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginekeeper.compatibility.facts import ModelFacts
    from enginekeeper.specs.variants import Variant

_SMALLEST_WORKSPACE = 32 << 20
_ROUNDED = 2.4
_BUFFERS, _DECODER = 2.3, 5.0
_UNNAMED = 3 << 28  # three quarters of a GiB
_VLLM_BYTES_OF_A_LOGIT = 2 + 2 * 4


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Bytes on one GPU that are neither weights nor keys and values."""

    activations: int
    workspace: int
    """Buffers, the sampling of tokens, CUDA itself."""

    @property
    def total(self) -> int:
        """Both."""
        return self.activations + self.workspace

    def as_dict(self) -> dict[str, Any]:
        """Returns them as JSON values."""
        return asdict(self)


def engine_beside(variant: Variant, model: ModelFacts, batch: int) -> Beside:
    """Returns what TensorRT-LLM takes beside for so many requests."""
    logits = batch * model.vocab_size
    activations = _forward(variant, model) + max(_SMALLEST_WORKSPACE, 2 * logits)
    if variant.recipe.rounds_activations:
        activations = ceil(activations * _ROUNDED)
    workspace = ceil((_BUFFERS + _DECODER) * 4 * logits) + _UNNAMED
    return Beside(activations=activations, workspace=workspace)


def vllm_beside(variant: Variant, model: ModelFacts, batch: int) -> Beside:
    """Returns what vLLM is reckoned to take beside for so many requests."""
    logits = _VLLM_BYTES_OF_A_LOGIT * batch * model.vocab_size
    return Beside(activations=_forward(variant, model) + logits, workspace=_UNNAMED)


def _forward(variant: Variant, model: ModelFacts) -> int:
    live = max((block.live(variant.parallel.tensor) for block in model.blocks), default=0)
    return 2 * variant.limits.max_num_tokens * (live + 2 * model.hidden_size)
