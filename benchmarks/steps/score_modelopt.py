"""A benchmark's step: a twin's weights with ModelOpt's own quantizers on the inputs.

Runs in the modelopt toolchain. Job: as `score_twin`. Weights are the twin's, dequantized; every
input that `twin.json` says is rounded goes through a `TensorQuantizer` of ModelOpt's, its range set
from the checkpoint's scale, instead of through our own formula.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "enginekeeper" / "steps"))

import torch
from _scoring import score
from _step import main
from _twin import LoadedModel, load_weights
from _twin_arm import TransformersArm
from modelopt.torch.quantization.config import QuantizerAttributeConfig
from modelopt.torch.quantization.nn import TensorQuantizer
from safetensors.torch import load_file
from transformers import DynamicCache

KINDS: dict[str, tuple[Any, float]] = {
    "fp8_static": ((4, 3), 448.0),
    "int8_static": (8, 127.0),
    "fp8_per_token": ((4, 3), 448.0),
}
"""ModelOpt's number of bits, and the largest number of the format, by rounding."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Installs the quantizers and scores the suite."""
    directory = Path(job["twin"])
    model = load_weights(directory)
    twin = json.loads((directory / "twin.json").read_text(encoding="utf-8"))
    extra_path = directory / "twin_extra.safetensors"
    extra = load_file(extra_path) if extra_path.exists() else {}
    modules = dict(model.named_modules())
    for name, wanted in twin["linears"].items():
        vector = None if wanted["prequant"] is None else extra[wanted["prequant"]]
        hook = functools.partial(_before, vector, _quantizer(wanted["activation"]))
        modules[name].register_forward_pre_hook(hook)
    return score(TransformersArm(LoadedModel(model, "twin", DynamicCache)), job)


def _quantizer(wanted: dict[str, Any] | None) -> TensorQuantizer | None:
    if wanted is None:
        return None
    bits, largest = KINDS[wanted["kind"]]
    if wanted["kind"] == "fp8_per_token":  # as in FP8_PER_CHANNEL_PER_TOKEN_CFG
        blocks = {-1: None}
        return TensorQuantizer(
            QuantizerAttributeConfig(num_bits=bits, type="dynamic", block_sizes=blocks)
        )
    quantizer = TensorQuantizer(QuantizerAttributeConfig(num_bits=bits, axis=None))
    quantizer.amax = torch.tensor(wanted["scale"] * largest)
    return quantizer


def _before(
    vector: torch.Tensor | None,
    quantizer: TensorQuantizer | None,
    _module: object,
    inputs: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, ...]:
    x = inputs[0] if vector is None else inputs[0] * vector
    return (x if quantizer is None else quantizer(x), *inputs[1:])


if __name__ == "__main__":
    main(run)
