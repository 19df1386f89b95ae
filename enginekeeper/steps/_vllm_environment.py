"""What vLLM's steps share: what is set before it is imported, and which vLLM it is."""

from __future__ import annotations

import importlib.metadata

from _step import Refusal

IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""`0`: the engine runs in the step's own process."""

ENVIRONMENT = {
    IN_PROCESS: "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""What must be set before vLLM is imported; a value from outside wins."""


def vllm_version() -> str:
    """Returns the distribution that is installed, with its version."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    raise Refusal("broken-toolchain", "vLLM is importable but has no installed version")
