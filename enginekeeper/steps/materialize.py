"""Turns a GGUF file into a Hugging Face directory in bfloat16.

What a GGUF holds is quantized already: the weights written here are its dequantized values, and
the result says from which formats, because every figure measured against them must say so too.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from _step import Refusal, main

UNQUANTIZED = ("F64", "F32", "F16", "BF16")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Writes config.json, model.safetensors and the tokenizer; returns what was converted."""
    source, output = Path(job["gguf"]), Path(job["output"])
    formats = _formats(source)
    print(f"progress 0/3 reading {source.name}", flush=True)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tensors = _convert(source, partial)
    for path in partial.iterdir():
        path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only
    partial.rename(output)
    return {"tensors": tensors, "note": _note(formats), "formats": dict(formats)}


def _formats(source: Path) -> Counter[str]:
    """Counts the tensors of each GGUF format; refuses what is not a GGUF file."""
    from gguf import GGUFReader  # noqa: PLC0415 - refusals about paths come before imports

    try:
        reader = GGUFReader(source)
    except FileNotFoundError:
        raise Refusal("model-incomplete", "there is no such file", where=source) from None
    except (ValueError, IndexError, KeyError) as fault:
        raise Refusal(
            "model-malformed",
            f"not a readable GGUF file: {fault}",
            where=source,
            remedy="download the file again; it may have been cut short",
        ) from fault
    if "general.architecture" not in reader.fields or not reader.tensors:
        raise Refusal(
            "model-malformed",
            "holds no model",
            where=source,
            expected="an architecture and tensors",
        )
    return Counter(tensor.tensor_type.name for tensor in reader.tensors)


def _note(formats: Counter[str]) -> str:
    quantized = [name for name, _ in formats.most_common() if name not in UNQUANTIZED]
    return f"dequantized from {', '.join(quantized)}" if quantized else "not quantized"


def _convert(source: Path, target: Path) -> int:
    """Saves the model as transformers reads it; returns how many tensors it has."""
    import torch  # noqa: PLC0415 - seconds to import
    from transformers import AutoTokenizer  # noqa: PLC0415

    loaded = _load(source)
    print("progress 1/3 copying the weights into an unquantized model", flush=True)
    # save_pretrained refuses a model that was loaded from a quantized file, so the values go into
    # a new model of the same configuration.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = {name: value.to(torch.bfloat16) for name, value in loaded.state_dict().items()}
    fresh = type(loaded)(config).to(torch.bfloat16)
    fresh.load_state_dict(weights)
    fresh.tie_weights()
    config.dtype = "bfloat16"
    print("progress 2/3 saving", flush=True)
    fresh.save_pretrained(target)
    # A tokenizer writes its keyword arguments into its own file: it gets none but the necessary.
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    tied = bool(config.tie_word_embeddings)
    return len(weights) - (1 if tied and "lm_head.weight" in weights else 0)


def _load(source: Path) -> Any:  # noqa: ANN401 - transformers' own class
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    try:
        return AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
        )
    except ValueError as fault:
        raise Refusal("unsupported-architecture", str(fault), where=source) from fault


if __name__ == "__main__":
    main(run)
