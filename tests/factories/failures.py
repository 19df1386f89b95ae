"""Failures of builds as the catalogue remembers them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from registry.digests import Digest
from registry.failures.types import BuildFailure

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def failure(key: Digest, **changes: Any) -> BuildFailure:  # noqa: ANN401 - fields
    """Returns a failure that counts for two weeks from noon."""
    fields: dict[str, Any] = {
        "key": key, "variant": "m.fp8.tp1.l4", "toolchain": "tensorrt-llm-1.2.1",
        "group": "no_kernel", "pattern": "no-implementation", "cause": "no kernel fits",
        "remedy": "use other plugins", "log": ("[E] Could not find any implementation",),
        "simulated": False, "failed_at": NOON, "expires_at": NOON + timedelta(days=14),
        "actor": "anna",
    }  # fmt: skip
    return BuildFailure(**{**fields, **changes})
