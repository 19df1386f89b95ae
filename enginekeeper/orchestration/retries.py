"""Which failures are worth trying again."""

from __future__ import annotations

from typing import Any

from enginekeeper.errors import UnavailableError
from registry.errors import ConflictError, StoreUnavailableError

_PASSING = (UnavailableError, StoreUnavailableError, ConflictError)


def can_be_retried(task: Any, run: Any, state: Any) -> bool:  # noqa: ANN401, ARG001 - Prefect's
    """Says whether a task's failure may pass by itself: what did not answer, or came second."""
    return isinstance(state.result(raise_on_failure=False), _PASSING)
