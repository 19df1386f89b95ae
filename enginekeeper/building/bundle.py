"""A bundle for TensorRT-LLM's PyTorch backend: what its files say, held against its release.

config.json, hf_quant_config.json, *.safetensors, tokenizer   a checkpoint of Hugging Face's
llm_api_options.yaml    what the LLM API and `trtllm-serve` are started with
warmup.json, caches/    the caches of a warm start, and what they are bound to
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginekeeper.building.runtime_caches import DESCRIPTION
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.specs.llm_api import interface_of

__all__ = ["OPTIONS", "is_bundle", "options_of"]

OPTIONS = "llm_api_options.yaml"
"""JSON, which is YAML, too."""

_LIMITS = ("max_batch_size", "max_num_tokens", "max_seq_len")


def is_bundle(directory: Path) -> bool:
    """Says whether a directory's files are those of a bundle."""
    return (directory / DESCRIPTION).is_file() and (directory / OPTIONS).is_file()


def options_of(directory: Path, version: str) -> dict[str, Any]:
    """Returns a bundle's options; raises InputError for what its release does not take."""
    path = directory / OPTIONS
    options = interface_of(version, "pytorch").accepting(read_json_object(path))
    for name in _LIMITS:
        value = options.get(name)
        if type(value) is not int or value < 1:
            raise InputError(
                "the options name no limit of a bundle", where=f"{path}: {name}",
                actual=repr(value)[:80], expected="a whole number from 1 on",
            )  # fmt: skip
    if "model" in options:
        raise InputError(
            "the options name a model", where=f"{path}: model", actual=str(options["model"])[:80],
            expected="none: a bundle is its own model",
        )  # fmt: skip
    return options
