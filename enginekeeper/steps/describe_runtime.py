"""The step `describe_runtime`: what caches that are made here would be bound to.

Job: `{"gpu": {"product", "compute_capability"}}`. It is asked in the toolchain that will serve, so
that its packages are those that count. Not run on a GPU.
"""

from __future__ import annotations

from typing import Any

from _runtime import key_of
from _step import main
from _trtllm import find_device


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the key; refuses where there is no such GPU, or the driver does not answer."""
    return {"key": key_of(find_device(job["gpu"]))}


if __name__ == "__main__":
    main(run)
