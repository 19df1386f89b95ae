"""A model's own tokenizer, loaded without any code of its directory, and where its texts end.

A tokenizer is data of others. What it raises when it is asked is an answer, `Refused`; the library
that reads it raises bare exceptions, and where it panics none that `except Exception` would catch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Answer = TypeVar("Answer")

UNUSABLE = "tokenizer-unusable"
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Without any of these transformers makes an empty tokenizer of the class that the config names."""

PANIC = "PanicException"
"""Of the Rust code in `tokenizers`; the class is in no module that could be imported."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Says in words what a tokenizer or its template did instead of answering."""


def ask(question: Callable[[], Answer]) -> Answer:
    """Returns what a tokenizer answers; raises Refused for whatever it raises."""
    try:
        return question()
    except Refused:
        raise
    except BaseException as fault:
        if not isinstance(fault, Exception) and type(fault).__name__ != PANIC:
            raise  # somebody wants this process to end
        raise Refused(worded(fault)) from fault


def worded(fault: BaseException) -> str:
    """Returns an exception in a few words."""
    return f"{type(fault).__name__} {str(fault)[:80]}"


def load(directory: Path) -> Any:  # noqa: ANN401 - no types
    """Loads a tokenizer, running no code of its directory; refuses what is none."""
    if not any((directory / name).is_file() for name in FILES):
        raise _unusable("there is no tokenizer", directory, expected=" or ".join(FILES))
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    try:
        return ask(
            lambda: AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        )
    except Refused as fault:
        raise _unusable(f"the tokenizer cannot be loaded: {fault}", directory) from fault


def ids_of(tokenizer: Any, text: str, where: object) -> list[int]:  # noqa: ANN401
    """Cuts a text into ids; refuses a tokenizer that breaks on it."""
    try:
        return ask(lambda: list(tokenizer(text)["input_ids"]))
    except Refused as fault:
        raise _unusable(f"the tokenizer breaks on a text: {fault}", where) from fault


def _unusable(message: str, where: object, expected: str | None = None) -> Refusal:
    remedy = "copy tokenizer.json and tokenizer_config.json again from the same model"
    return Refusal(UNUSABLE, message, where=where, expected=expected, remedy=remedy)


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
