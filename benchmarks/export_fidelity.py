"""How far an exported checkpoint is from what ModelOpt calibrated, and how far from itself.

Runs in the modelopt toolchain on a Hugging Face directory; the calibration text is split into the
samples that calibrate and those that are scored.

    PYTHON benchmarks/export_fidelity.py MODEL RECIPE   (fp8, w8a8_sq, w4a16 or w4a16_awq)

Each line is one arm: perplexity, mean KL from the source, and, once the model has been exported,
the mean difference in log-probability to ModelOpt's own fake-quantized model, with its standard
error, and the mean KL from that model.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "enginekeeper" / "steps"))

import modelopt.torch.quantization as mtq  # noqa: E402
from _modelopt_recipes import QuantizationRequest, modelopt_config  # noqa: E402
from modelopt.torch.export import export_tensorrt_llm_checkpoint  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TEXT = ROOT / "enginekeeper" / "data" / "calibration" / "mixed-v1.jsonl"
CALIBRATION, MAX_TOKENS, WINDOW, WINDOWS = 24, 64, 512, 2
PERTURBATION = 1e-7
"""Relative; about one unit in the last place of a float32."""

Tensor = torch.Tensor


def load(model: str) -> torch.nn.Module:
    """Loads the source in float32: the arms then differ by what they do, not by bfloat16."""
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def texts(model: str) -> tuple[list[Tensor], Tensor]:
    """Returns the calibration samples and the windows to be scored."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    samples = [json.loads(line)["text"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    random.Random(7).shuffle(samples)
    calibration = [
        torch.tensor([tokenizer(text)["input_ids"][:MAX_TOKENS]]) for text in samples[:CALIBRATION]
    ]
    latin = [text for text in samples[CALIBRATION:] if max(map(ord, text)) < 0x250]  # noqa: PLR2004
    ids = tokenizer("\n\n".join(latin))["input_ids"][: WINDOW * WINDOWS]
    return calibration, torch.tensor(ids).view(WINDOWS, WINDOW)


@torch.inference_mode()
def logprobs(model: torch.nn.Module, windows: Tensor) -> Tensor:
    """Returns the log-probabilities that predict every token but the first of each window."""
    rows = [model(window[None], use_cache=False).logits[0, :-1] for window in windows]
    return torch.log_softmax(torch.cat(rows).float(), dim=-1)


class Report:
    """Prints arms against the source and, once it is known, against the fake-quantized model."""

    def __init__(self, windows: Tensor, source: Tensor) -> None:
        self.targets = windows[:, 1:].reshape(-1, 1)
        self.source = source
        self.calibrated: Tensor | None = None

    def line(self, name: str, arm: Tensor) -> None:
        """Prints one arm."""
        nll = -arm.gather(1, self.targets)
        text = f"{name:42} ppl {nll.mean().exp():7.3f}  KL(source) {_kl(self.source, arm):.5f}"
        if self.calibrated is not None:
            delta = nll + self.calibrated.gather(1, self.targets)
            error = delta.std() / math.sqrt(len(delta))
            text += f"  dNLL {delta.mean():+.4f} +- {error:.4f}"
            text += f"  KL(fake-quant) {_kl(self.calibrated, arm):.5f}"
        print(text, flush=True)


def _kl(p: Tensor, q: Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


def dequantized(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Returns a linear's weights as the engine multiplies them."""
    weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weights_scaling_factor"]
    if scale.ndim == 1:
        return weight.float() * (scale if scale.numel() == 1 else scale[:, None])
    packed = weight.view(torch.uint8)
    nibbles = torch.stack([packed & 15, packed >> 4], dim=1).flatten(0, 1).float()
    values = torch.where(nibbles > 7, nibbles - 16, nibbles)  # noqa: PLR2004 - two's complement
    return values * scale.repeat_interleave(values.shape[1] // scale.shape[1], dim=1)


def activation(
    tensors: dict[str, Tensor], name: str, switch: dict[str, bool]
) -> Callable[..., Any]:
    """Returns the hook that does to a linear's input what the engine does."""
    prequant = tensors.get(f"{name}.prequant_scaling_factor")
    scale = tensors.get(f"{name}.activation_scaling_factor")
    is_fp8 = tensors[f"{name}.weight"].dtype == torch.float8_e4m3fn

    def hook(_: object, inputs: tuple[Tensor]) -> tuple[Tensor]:
        values = inputs[0] if prequant is None else inputs[0] * prequant.float()
        if scale is None or not switch["activations"]:
            return (values,)
        if is_fp8:
            clipped = (values / scale).clamp(-448, 448)
            return (clipped.to(torch.float8_e4m3fn).float() * scale,)
        return ((values / scale).round().clamp(-128, 127) * scale,)

    return hook


def executor(model: str, checkpoint: str, switch: dict[str, bool]) -> torch.nn.Module:
    """Returns the source with every linear replaced by the checkpoint's."""
    tensors = load_file(f"{checkpoint}/rank0.safetensors")
    own = load(model)
    for number, layer in enumerate(own.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        places = {
            "attention.qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
            "attention.dense": (attention.o_proj,),
            "mlp.fc": (mlp.gate_proj,),
            "mlp.gate": (mlp.up_proj,),
            "mlp.proj": (mlp.down_proj,),
        }
        for place, linears in places.items():
            name = f"transformer.layers.{number}.{place}"
            sizes = [linear.weight.shape[0] for linear in linears]
            parts = dequantized(tensors, name).split(sizes)
            for linear, weight in zip(linears, parts, strict=True):
                linear.weight.data = weight
                linear.register_forward_pre_hook(activation(tensors, name, switch))
    return own


def main(model: str, recipe: str) -> None:
    """Scores every arm of one recipe."""
    torch.manual_seed(0)
    calibration, windows = texts(model)
    report = Report(windows, logprobs(load(model), windows))
    report.line("source", report.source)
    calibrated = load(model)
    request = QuantizationRequest(recipe, "auto", 64, ())
    with torch.inference_mode():
        mtq.quantize(
            calibrated,
            modelopt_config(request),
            lambda m: [m(ids, use_cache=False) for ids in calibration],
        )
    report.line("ModelOpt's fake-quant before the export", logprobs(calibrated, windows))
    with tempfile.TemporaryDirectory() as checkpoint:
        with torch.inference_mode():
            export_tensorrt_llm_checkpoint(
                calibrated, "llama", torch.bfloat16, checkpoint, inference_tensor_parallel=1
            )
        after = logprobs(calibrated, windows)
        report.line("ModelOpt's fake-quant after the export", after)
        report.calibrated = after
        switch = {"activations": True}
        own = executor(model, checkpoint, switch)
    report.line("the checkpoint, own executor", logprobs(own, windows))
    embeddings = own.model.embed_tokens.weight
    embeddings.data = embeddings * (1 + PERTURBATION * torch.randn(embeddings.shape))
    report.line("  embeddings perturbed by 1e-7", logprobs(own, windows))
    switch["activations"] = False
    report.line("  activations left alone", logprobs(own, windows))


if __name__ == "__main__":
    main(*sys.argv[1:])
