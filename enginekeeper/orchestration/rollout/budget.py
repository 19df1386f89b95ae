"""How many nodes may be away at once: a number, or a share of a wave's nodes."""

from __future__ import annotations

import re

from enginekeeper.errors import InputError

_FORM = re.compile(r"([0-9]{1,6})(%?)")
_WHOLE = 100


def allowed(text: str, nodes: int) -> int:
    """Returns how many of a wave's nodes may be away; a share is rounded down, to one at least.

    Raises InputError for what is neither a number from 1 on nor a share from 1% to 100%.
    """
    match = _FORM.fullmatch(text)
    number = int(match[1]) if match else 0
    if match is None or number < 1 or (match[2] and number > _WHOLE):
        raise InputError(
            "not a budget", actual=text[:80], expected="a number of nodes, or a share such as 25%"
        )
    return max(1, nodes * number // _WHOLE) if match[2] else number
