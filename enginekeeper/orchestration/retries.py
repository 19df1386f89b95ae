"""Which failures are worth trying again."""

from __future__ import annotations

import logging
from typing import Any

from registry.errors import DiagnosedError

progress = logging.getLogger("enginekeeper.progress")


def can_be_retried(task: Any, run: Any, state: Any) -> bool:  # noqa: ANN401, ARG001 - Prefect's
    """Says whether a task's failure may pass by itself, as whoever raised it says."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, DiagnosedError) or not error.transient:
        return False
    progress.info("%s; trying again in a moment", str(error).splitlines()[0])
    return True
