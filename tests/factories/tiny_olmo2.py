"""An Olmo2 of two small layers with random weights: no release of TensorRT-LLM has its kind.

It shows structure, never quality.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.factories.tiny_llama import (
    HEADS,
    HIDDEN,
    KEY_HEADS,
    LAYERS,
    llama_config,
    random_weights,
    write_model,
)

ARCHITECTURE = "Olmo2ForCausalLM"


def olmo2_config() -> dict[str, Any]:
    """Returns the config in the form of transformers 5; like a real one it names no head_dim.

    It is served in float32: random weights have near ties everywhere, which 16 bits decide by
    chance, in decode more often than in prefill (12 of 485 steps and 9 of 1,512 positions).
    """
    own = {"architectures": [ARCHITECTURE], "model_type": "olmo2", "dtype": "float32"}
    return {**llama_config(), **own}


def write_olmo2(directory: Path, seed: int = 0) -> Path:
    """Writes it as a Hugging Face directory: Llama's linears, with norms at other places."""
    llama = random_weights(seed)
    weights = {name: one for name, one in llama.items() if "input_layernorm" not in name}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        sizes = {
            "self_attn.q_norm": HIDDEN,
            "self_attn.k_norm": HIDDEN // HEADS * KEY_HEADS,
            "post_feedforward_layernorm": HIDDEN,
        }
        for name, size in sizes.items():
            weights[f"{prefix}.{name}.weight"] = np.ones(size, ml_dtypes.bfloat16)
    return write_model(directory, olmo2_config(), weights)
