"""What serves a model beside its weights: tokenizer, chat templates, and where a text ends.

Which files these are, whether the tokenizer's ids fit the embedding. They belong to the model's
digest, and are in every bundle of it: what a server would read is what the model says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError

FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
    "vocab.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
"""What can change the ids of a text."""

_TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates besides the first, such as one for tools; transformers reads no other folder."""

ENDS = "generation_config.json"
"""Which tokens end a text, where it says so; else config.json and the tokenizer do."""

_LEAST_SHARE = 0.9
"""Of the embedding's rows: padding to a round number leaves less than 2 % without a token (Phi-2:
50,295 of 51,200)."""

_ENOUGH = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
"""Any of these makes a tokenizer."""


def check_tokenizer(model: Path, vocabulary: int) -> list[str]:
    """Returns what serves the model; raises InputError when its tokenizer is missing or unfit."""
    require_tokenizer(model)
    present = serving_files(model)
    if "tokenizer.json" in present:
        _check_ids(model / "tokenizer.json", vocabulary)
    if ENDS in present:
        read_json_object(model / ENDS)
    return present


def serving_files(directory: Path) -> list[str]:
    """Returns what is there of tokenizer, chat templates and generation config, by its path."""
    present = [name for name in (*FILES, ENDS) if (directory / name).is_file()]
    return present + extra_templates(directory)


def extra_templates(directory: Path) -> list[str]:
    """Returns the chat templates that lie in a folder of their own, by their path."""
    found = (path for path in directory.glob(_TEMPLATES) if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in found)


def has_tokenizer(directory: Path) -> bool:
    """Says whether the files of a directory make a tokenizer."""
    return any(all((directory / name).is_file() for name in files) for files in _ENOUGH)


def require_tokenizer(directory: Path) -> None:
    """Raises InputError where a directory has no tokenizer."""
    if not has_tokenizer(directory):
        raise InputError(
            "the tokenizer is missing",
            where=str(directory),
            expected=" or ".join(" with ".join(files) for files in _ENOUGH),
            remedy="copy the tokenizer's files from the same model into this directory",
        )


def _check_ids(path: Path, vocabulary: int) -> None:
    """Raises when tokens have no row in the embedding, or many rows have no token."""
    document = read_json_object(path)
    ids = [*_model_ids(path, document), *_added_ids(path, document)]
    if not ids:
        raise InputError("the tokenizer has no tokens", where=str(path))
    smallest, largest = min(ids), max(ids)
    if smallest[0] < 0:
        raise InputError(
            "a token has a negative id",
            where=str(path),
            actual=f"id {smallest[0]} ({smallest[1]!r})",
        )
    if largest[0] >= vocabulary:
        raise InputError(
            "the tokenizer does not fit the model: it has ids without a row in the embedding",
            where=str(path),
            actual=f"id {largest[0]} ({largest[1]!r})",
            expected=f"ids below {vocabulary} (config.json: vocab_size)",
            remedy="use the tokenizer that was published with this model",
        )
    known = len({number for number, _ in ids})
    if known < _LEAST_SHARE * vocabulary:
        raise InputError(
            "the tokenizer does not fit the model: most of the embedding is for other tokens",
            where=str(path),
            actual=f"{known} tokens",
            expected=f"nearly {vocabulary} (config.json: vocab_size)",
            remedy="use the tokenizer that was published with this model",
        )


def _model_ids(path: Path, document: dict[str, Any]) -> list[tuple[int, str]]:
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: the id is the position
        return [(number, str(entry)[:80]) for number, entry in enumerate(vocabulary)]
    if isinstance(vocabulary, dict) and all(type(value) is int for value in vocabulary.values()):
        return [(value, token) for token, value in vocabulary.items()]
    raise InputError("no vocabulary", where=str(path), expected="model.vocab")


def _added_ids(path: Path, document: dict[str, Any]) -> list[tuple[int, str]]:
    added = document.get("added_tokens") or []
    try:
        return [(int(entry["id"]), str(entry["content"])) for entry in added]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            "added_tokens is not a list of tokens with ids", where=str(path), actual=repr(error)
        ) from error
