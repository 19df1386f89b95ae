"""SIMULATED: where the release keeps the settings of its LLM API."""

from __future__ import annotations

from tensorrt_llm._llm import KvCacheConfig, RequestOutput

__all__ = ["KvCacheConfig", "RequestOutput"]
