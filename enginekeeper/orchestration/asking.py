"""How an engine of TensorRT-LLM is asked: through the LLM API, or by `trtllm-serve` or Triton."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginekeeper.building.bundle import options_of
from enginekeeper.building.engine_runner import EngineRunner, Way
from enginekeeper.building.runtime_caches import caches_job
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.orchestration.stages import Made, Runner
from enginekeeper.serving.engine import read_engine
from enginekeeper.serving.servers import serve_row
from enginekeeper.serving.triton import MODEL, model_repository
from enginekeeper.specs.llm_api import Backend, serve_interface_of
from enginekeeper.specs.profiles import BuilderKind
from registry.keys import EngineKey
from registry.types import Engine

SERVED_STEP, TRITON_STEP = "score_served", "score_triton"
PROBE_STEP = "probe_trtllm"


_BY_PYTORCH = (BuilderKind.TRTLLM_PYTORCH, BuilderKind.SIMULATED_PYTORCH)


def backend_of(key: EngineKey) -> Backend:
    """Returns what runs an engine of TensorRT-LLM: a bundle is run by the PyTorch backend."""
    return "pytorch" if key.hard["builder"] in _BY_PYTORCH else "engine"


def require_askable(engine: Engine, ways: Mapping[str, bool]) -> None:
    """Raises InputError where a bundle is to be asked in a way that there is for engines alone.

    The ways are named as options of the command line, with whether they were asked for.
    """
    asked = [option for option, wanted in ways.items() if wanted]
    if backend_of(engine.key) == "engine" or not asked:
        return
    raise InputError(
        "a bundle for the PyTorch backend is judged by the LLM API, or by trtllm-serve",
        where=f"engine {engine.digest.short}",
        actual=" ".join(asked),
        remedy="leave it out",
    )


def runner_of(
    engine: Engine, loaded: Made, source: Path, *, served: bool, triton: bool = False
) -> Runner:
    """Returns what asks a real engine, in the toolchain of its release.

    The caller has verified it. `source` is the model's directory: a server needs its tokenizer.
    """
    version, directory = str(engine.key.hard["tensorrt_llm"]), loaded.path / "engine"
    runner = EngineRunner(version, backend_of(engine.key))
    toolchain, gpus = f"tensorrt-llm-{version}", gpus_of(engine)
    if triton:
        return Runner(toolchain, TRITON_STEP, {**triton_job(version, directory), **gpus})
    if served:
        told = served_job(version, directory, source, backend_of(engine.key))
        return Runner(toolchain, SERVED_STEP, {**told, **gpus})
    return Runner(toolchain, runner.score_step, {**runner.job(directory, "generation"), **gpus})


def gpus_of(engine: Engine) -> dict[str, Any]:
    """Returns which GPUs a step may use for a real engine, and how many."""
    hard = engine.key.hard
    return {
        "gpu": {
            "product": str(hard["gpu_product"]),
            "compute_capability": str(hard["compute_capability"]),
        },
        "ranks": int(hard["tensor_parallel"]) * int(hard["pipeline_parallel"]),
    }


def prober_of(engine: Engine, loaded: Made) -> Runner:
    """Returns what asks a real engine in other ways, in the toolchain of its release."""
    version = str(engine.key.hard["tensorrt_llm"])
    asked = probe_job(version, loaded.path / "engine", backend_of(engine.key))
    told = {**asked, **gpus_of(engine)}
    return Runner(f"tensorrt-llm-{version}", PROBE_STEP, told)


def probe_job(version: str, directory: Path, backend: Backend = "engine") -> dict[str, Any]:
    """Returns what the step needs to know to ask an engine in other ways."""
    limits = _limits(version, directory, backend)
    runner = EngineRunner(version, backend)
    plain, reusing = (
        runner.job(directory, "generation", reuse=reuse)["api"] for reuse in (False, True)
    )
    wanted = ("max_batch_size", "max_input_len", "max_seq_len")
    told = {"api": plain, "reusing": reusing, "limits": {name: limits[name] for name in wanted}}
    return told if backend == "engine" else {**told, "caches": caches_job(directory)}


def _limits(version: str, directory: Path, backend: Backend) -> dict[str, Any]:
    """Returns the limits that an engine was built with; a bundle takes what fits into a step."""
    if backend == "engine":
        limits: dict[str, Any] = read_json_object(directory / "config.json")["build_config"]
        return limits
    options = options_of(directory, version)
    longest = min(options["max_num_tokens"], options["max_seq_len"])
    return {**options, "max_input_len": longest}


def says_all(directory: Path) -> bool:
    """Says whether an engine that is served gives every number a judgement is made of."""
    limits = read_json_object(directory / "config.json").get("build_config") or {}
    return bool(limits.get("gather_context_logits"))


def served_job(
    version: str, directory: Path, source: Path, backend: Backend = "engine"
) -> dict[str, Any]:
    """Returns what the step needs to know to serve an engine and ask it.

    One that was built with context logits gives every number; another says what it chose.
    """
    if backend == "pytorch":
        return _served_bundle(version, directory, source)
    way: Way = "context" if says_all(directory) else "generation"
    told = EngineRunner(version).job(directory, way)
    api, named = told["api"]["arguments"], serve_row(version).backend
    arguments = [
        str(directory), "--tokenizer", str(source),
        *(() if named is None else ("--backend", named)),
        "--tp_size", str(api["tensor_parallel_size"]),
        "--pp_size", str(api["pipeline_parallel_size"]),
        "--max_batch_size", str(told["max_batch"]),
    ]  # fmt: skip
    options = {"kv_cache_config": api["kv_cache_config"]}
    return {
        "serve": {"version": version, "arguments": arguments, "options": options},
        "way": way,
        "logprobs": serve_interface_of(version).logprobs,
        "max_batch": told["max_batch"],
    }


def _served_bundle(version: str, directory: Path, source: Path) -> dict[str, Any]:
    """Returns the same of a bundle, which is served with its own options and a copy of its caches.

    Blocks of the cache are not reused, so that every position is computed.
    """
    options = options_of(directory, version)
    cache = {**options.get("kv_cache_config", {}), "enable_block_reuse": False}
    return {
        "serve": {
            "version": version,
            "arguments": [str(directory), "--tokenizer", str(source), "--backend", "pytorch"],
            "options": {**options, "kv_cache_config": cache},
        },
        "way": "generation",
        "logprobs": serve_interface_of(version).logprobs,
        "max_batch": options["max_batch_size"],
        "caches": caches_job(directory),
    }


def triton_job(version: str, directory: Path) -> dict[str, Any]:
    """Returns what the step needs to know to serve an engine by Triton and ask it.

    What is served is the repository that `ek export triton` writes; blocks of the cache are not
    reused, so that every position is computed. Raises InputError for what Triton could not load.
    """
    engine = read_engine(directory, version)
    return {
        "triton": {
            "repository": model_repository(engine, str(directory), reuse=False),
            "model": MODEL,
        },
        "way": "context" if says_all(directory) else "generation",
        "logprobs": True,
        "max_batch": engine.max_batch_size,
    }
