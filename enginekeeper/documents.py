"""The one reader of JSON files: a document comes back, or an InputError that names the file.

Rules:

- what two readers could take for two things is no document: a name that is there twice, NaN;
- a whole number beyond 64 bits becomes a float, as in most JSON readers;
- nothing of a file's content, size or place is anything worse than an InputError.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from enginekeeper.errors import InputError

_LARGEST = 64 * 1024 * 1024
"""Bytes; the index of a model of 100,000 tensors is 10 MB, a tokenizer of 256,000 tokens 35 MB."""

_DIGITS = 18
"""Decimal digits that surely fit into 64 bits."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises InputError that names the file, and the line if it can."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError("not a JSON object", where=str(path), actual=type(document).__name__)
    return document


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Reads a JSON value; raises InputError that names the file, and the line if it can."""
    return parse_json(read_whole(path), str(path))


def read_whole(path: Path) -> bytes:
    """Reads a document of any kind; raises InputError for one that is missing or too large."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise InputError(
                "too large for what it is",
                where=str(path),
                actual=f"{size} bytes",
                expected=f"at most {_LARGEST} bytes",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("the file is missing", where=str(path)) from None
    except OSError as error:
        raise InputError(
            "the file cannot be read", where=str(path), actual=error.strerror
        ) from error


def parse_json(text: bytes | str, where: str) -> Any:  # noqa: ANN401 - any JSON value
    """Reads a JSON value; `where` is what the InputError calls its place."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        document = json.loads(
            text, object_pairs_hook=_unique, parse_int=_whole, parse_constant=_no_constant
        )
        if "\\ud" in text.lower():  # an escape that may be half of a pair: no text can hold it
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if error.lineno > 1 else where
        raise InputError(f"not JSON: {error.msg}", where=place) from error
    except UnicodeEncodeError as error:
        raise InputError("not JSON that can be read: half of a surrogate", where=where) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not JSON: not UTF-8 at byte {error.start}", where=where) from error
    except RecursionError as error:
        raise InputError("not JSON that can be read: nested too deeply", where=where) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=where) from error
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name[:80]!r} is there twice")
    return unique


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
