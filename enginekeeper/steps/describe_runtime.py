"""The step `describe_runtime`: what caches that are made here would be bound to.

Job: `{"gpu": {"product", "compute_capability"}, "ranks"}`. It is asked in the toolchain that will
serve, so that its packages are those that count. Not run on a GPU.
"""

from __future__ import annotations

from typing import Any

from _runtime import key_of
from _step import main
from _trtllm import find_devices


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the key; refuses where there are fewer such GPUs, or the driver does not answer."""
    return {"key": key_of(find_devices(job["gpu"], int(job["ranks"]))[0])}


if __name__ == "__main__":
    main(run)
