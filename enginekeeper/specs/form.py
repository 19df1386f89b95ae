"""What all parts of the file form share: strictness, and how a part refuses a value."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterable

FORM = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
"""Unknown fields are errors, nothing is converted, and a field's docstring is its description."""


def fault(
    what: str, *, expected: str, field: str | None = None, remedy: str | None = None
) -> PydanticCustomError:
    """Returns an error that a validator raises; `field` names the member that is at fault."""
    context = {"expected": expected, "field": field, "remedy": remedy}
    return PydanticCustomError("spec", "{what}", {"what": what, **context})


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Returns `did you mean x?` for the known words most like this one, or None."""
    near = get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else None
