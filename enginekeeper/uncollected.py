"""Makes many objects that stay, without looking through them for garbage again and again.

Python looks whenever so many objects were made, and finds nothing among what an answer is made of:
that is a seventh of what the drift of a large fleet takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Stops Python's search for cycles until the block ends; counted references go on.

    Of the whole process: of two threads at once, the first that ends lets it go on.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
