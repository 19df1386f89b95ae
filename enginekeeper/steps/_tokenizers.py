"""A model's own tokenizer, loaded without any code of its directory, and where its texts end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from pathlib import Path


def load(directory: Path) -> Any:  # noqa: ANN401 - no types
    """Loads a tokenizer, running no code of its directory; refuses what is none."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as fault:
        raise Refusal(
            "tokenizer-unusable",
            f"the tokenizer cannot be loaded: {type(fault).__name__} {str(fault)[:200]}",
            where=str(directory),
            remedy="name a directory with tokenizer.json and tokenizer_config.json",
        ) from fault


def stops(directory: Path, tokenizer: Any) -> set[int]:  # noqa: ANN401
    """Returns the ids that end a text: of the generation config, else of the config, and its own.

    As vLLM and TensorRT-LLM do: a list is a list, and the tokenizer's own end counts, too.
    """
    own = tokenizer.eos_token_id
    found = {own} if isinstance(own, int) else set()
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ends = said.get("eos_token_id") if isinstance(said, dict) else None
        if ends is not None:
            listed = ends if isinstance(ends, list) else [ends]
            return found | {one for one in listed if type(one) is int}
    return found
