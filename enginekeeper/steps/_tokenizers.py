"""A model's own tokenizer, loaded without any code of its directory, and where its texts end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from _step import Refusal

if TYPE_CHECKING:
    from pathlib import Path


UNUSABLE = "tokenizer-unusable"


def refusals() -> tuple[type[Exception], ...]:
    """Returns what a tokenizer or a template, which are data of others, may raise when asked."""
    from jinja2.exceptions import TemplateError  # noqa: PLC0415 - in the toolchain only

    return (
        ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
        TypeError, ValueError, TemplateError,
    )  # fmt: skip


def load(directory: Path) -> Any:  # noqa: ANN401 - no types
    """Loads a tokenizer, running no code of its directory; refuses what is none."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as fault:  # what reads tokenizer.json raises nothing more particular
        raise Refusal(
            UNUSABLE,
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
        said = _read(path) if path.is_file() else {}
        ends = said.get("eos_token_id") if isinstance(said, dict) else None
        if ends is not None:
            listed = ends if isinstance(ends, list) else [ends]
            return found | {one for one in listed if type(one) is int}
    return found


def _read(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise Refusal(
            UNUSABLE,
            f"not JSON: {str(fault)[:200]}",
            where=str(path),
            remedy="copy the file again from the model",
        ) from fault
