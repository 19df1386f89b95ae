"""SIMULATED: where releases from 1.0 on keep the class for TensorRT engines."""

from __future__ import annotations

from tensorrt_llm_release import LATE, STATE

from tensorrt_llm._llm import EngineLlm

if STATE.version not in LATE:
    raise ModuleNotFoundError(
        "No module named 'tensorrt_llm._tensorrt_engine'", name="tensorrt_llm._tensorrt_engine"
    )
LLM = EngineLlm

__all__ = ["LLM"]
