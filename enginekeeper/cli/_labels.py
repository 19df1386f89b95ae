"""Labels as people write them: NAME=VALUE."""

from __future__ import annotations

from enginekeeper.errors import InputError

_LONGEST = 200


def read_label(text: str) -> tuple[str, str]:
    """Returns the two sides of a label; raises InputError for what is none."""
    name, equals, value = text.partition("=")
    fits = len(name) <= _LONGEST and len(value) <= _LONGEST and text.isprintable()
    if not (name and equals and value and fits):
        raise InputError("not a label", actual=ascii(text)[:200], expected="NAME=VALUE")
    return name, value
