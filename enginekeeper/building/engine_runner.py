"""Runs engines and checkpoints of TensorRT-LLM to be scored: through its LLM API, in a step.

Written against the documented interface and proved against a double of it; **it has not run on a
GPU**. A runner says what the step is given; who may be run (whose signature was verified) is for
the caller to see to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from enginekeeper.building.bundle import options_of
from enginekeeper.building.runtime_caches import caches_job
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.specs.llm_api import Backend, interface_of

__all__ = ["EngineRunner", "Way"]

Way = Literal["generation", "context"]
"""How logits are had: token by token of the shipped bytes, or from context logits of a twin."""


@dataclass(frozen=True)
class EngineRunner:
    """What one release runs engines with."""

    version: str
    backend: Backend = "engine"

    score_step: ClassVar[str] = "score_trtllm"

    def job(self, directory: Path, way: Way, *, reuse: bool = False) -> dict[str, Any]:
        """Returns what the step needs to know of a verified engine, besides what is scored.

        Blocks of the cache are reused only where that is what is asked about. Raises InputError
        for an engine that cannot be asked in this way.
        """
        if self.backend == "pytorch":
            return self._bundle_job(directory, way, reuse=reuse)
        config = read_json_object(directory / "config.json")
        limits, ranks = self._limits(directory, config), _ranks(config)
        if way == "context" and not limits.get("gather_context_logits"):
            raise InputError(
                "the engine gives no context logits",
                where=f"{directory / 'config.json'}: build_config.gather_context_logits",
                actual=limits.get("gather_context_logits"),
                expected=True,
                remedy="ask it by generation, or build a validation twin",
            )
        interface = interface_of(self.version, self.backend)
        arguments = interface.accepting(
            {
                "model": str(directory),
                "skip_tokenizer_init": True,
                "gather_generation_logits": True,
                "kv_cache_config": {"enable_block_reuse": reuse},
                **ranks,
            }
        )
        api = {"module": interface.module, "version": self.version, "arguments": arguments}
        return {"api": api, "way": way, "max_batch": limits["max_batch_size"]}

    def _bundle_job(self, directory: Path, way: Way, *, reuse: bool) -> dict[str, Any]:
        """Returns the same of a bundle, which is loaded with the options that are in it."""
        if way == "context":
            raise InputError(
                "a bundle has no validation twin: nothing of it is built otherwise",
                where=str(directory),
                remedy="ask it by generation",
            )
        interface = interface_of(self.version, "pytorch")
        options = options_of(directory, self.version)
        cache = {**options.get("kv_cache_config", {}), "enable_block_reuse": reuse}
        arguments = interface.accepting(
            {
                **options,
                "model": str(directory),
                "skip_tokenizer_init": True,
                "gather_generation_logits": True,
                "kv_cache_config": cache,
            }
        )
        api = {"module": interface.module, "version": self.version, "arguments": arguments}
        caches = caches_job(directory)
        return {"api": api, "way": way, "max_batch": options["max_batch_size"], "caches": caches}

    def _limits(self, directory: Path, config: dict[str, Any]) -> dict[str, Any]:
        limits = config.get("build_config")
        if not isinstance(limits, dict) or not isinstance(limits.get("max_batch_size"), int):
            raise InputError(
                "not an engine of trtllm-build",
                where=str(directory / "config.json"),
                expected="build_config.max_batch_size, a number",
            )
        return limits


def _ranks(config: dict[str, Any]) -> dict[str, int]:
    mapping = (config.get("pretrained_config") or {}).get("mapping") or {}
    return {
        "tensor_parallel_size": mapping.get("tp_size", 1),
        "pipeline_parallel_size": mapping.get("pp_size", 1),
    }
