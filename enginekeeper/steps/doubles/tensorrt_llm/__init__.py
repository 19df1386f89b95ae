"""SIMULATED: a stand-in for the package `tensorrt_llm`, for machines without a GPU."""

from __future__ import annotations

from tensorrt_llm_release import EARLY, require_known

from tensorrt_llm._llm import EngineLlm, SamplingParams, TorchLlm

__version__ = require_known()
LLM = EngineLlm if __version__ in EARLY else TorchLlm

__all__ = ["LLM", "SamplingParams", "__version__"]
