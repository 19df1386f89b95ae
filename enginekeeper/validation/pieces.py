"""The texts of single tokens, read from a model's `tokenizer.json`, for people who read a verdict.

No tokenizer: nothing is cut or joined here. What is decided by it is which tokens `places` judges
together. A token without a text that can be shown is shown by its number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object

RARE = 0.8
"""Tokens behind this share of the vocabulary are called rare: merges come in order of frequency."""


@dataclass(frozen=True)
class Pieces:
    """The texts of a vocabulary by number; empty where they are not known."""

    texts: Mapping[int, str] = field(default_factory=dict)
    special: frozenset[int] = frozenset()

    def text(self, token: int) -> str:
        """Returns a token's text, or its number in brackets."""
        return self.texts.get(token, f"[{token}]")

    def kind(self, token: int) -> str:
        """Returns the class of a token: special, digits, non-Latin, punctuation, rare, other."""
        text = self.texts.get(token)
        if token in self.special or text is None:
            return "special"
        bare = text.strip()
        if not bare or not any(character.isalnum() for character in bare):
            return "punctuation"
        if any(character.isdigit() for character in bare):
            return "digits"
        if any(character.isalpha() and not _latin(character) for character in bare):
            return "non-Latin"
        return "rare" if token >= RARE * len(self.texts) else "other"


NO_PIECES = Pieces()
"""No text is known of any token."""


def read_pieces(model: Path) -> Pieces:
    """Reads the texts; a model without a `tokenizer.json` has none."""
    path = model / "tokenizer.json"
    if not path.is_file():
        return NO_PIECES
    document = read_json_object(path)
    vocabulary = _vocabulary(document.get("model"))
    byte_level = "'ByteLevel'" in f"{document.get('pre_tokenizer')} {document.get('decoder')}"
    read = _from_bytes if byte_level else _from_words
    texts = {number: read(piece) for piece, number in vocabulary}
    added = [one for one in document.get("added_tokens") or [] if isinstance(one, dict)]
    texts |= {one["id"]: str(one.get("content")) for one in added if isinstance(one.get("id"), int)}
    special = frozenset(one["id"] for one in added if one.get("special") and one.get("id") in texts)
    return Pieces(texts, special)


def _vocabulary(model: Any) -> list[tuple[str, int]]:  # noqa: ANN401 - any JSON value
    """Returns pieces with their numbers, of a mapping (BPE, WordPiece) or a list (Unigram)."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return [(piece, one) for piece, one in vocabulary.items() if isinstance(one, int)]
    if isinstance(vocabulary, list):
        rows = [one[0] if isinstance(one, list) and one else None for one in vocabulary]
        return [(piece, at) for at, piece in enumerate(rows) if isinstance(piece, str)]
    return []


def _from_words(piece: str) -> str:
    return piece.replace("▁", " ")


def _from_bytes(piece: str) -> str:
    """Undoes the writing of bytes as printable characters that GPT-2 began."""
    if any(character not in _BYTES for character in piece):
        return _from_words(piece)
    return bytes(_BYTES[character] for character in piece).decode(
        "utf-8", errors="backslashreplace"
    )


def _byte_characters() -> dict[str, int]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    moved = {chr(256 + place): byte for place, byte in enumerate(hidden)}
    return {**{chr(byte): byte for byte in shown}, **moved}


_BYTES = _byte_characters()


def _latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN ")
