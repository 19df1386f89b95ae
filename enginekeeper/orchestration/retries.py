"""Which failures are worth trying again."""

from __future__ import annotations

import logging
from typing import Any

from enginekeeper.errors import UnavailableError
from registry.errors import ConflictError, DiskFullError, StoreUnavailableError

progress = logging.getLogger("enginekeeper.progress")

_PASSING = (UnavailableError, StoreUnavailableError, ConflictError)


def can_be_retried(task: Any, run: Any, state: Any) -> bool:  # noqa: ANN401, ARG001 - Prefect's
    """Says whether a task's failure may pass by itself: what did not answer, or came second."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, _PASSING) or isinstance(error, DiskFullError):
        return False
    progress.info("%s; trying again in a moment", str(error).splitlines()[0])
    return True
