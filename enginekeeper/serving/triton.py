"""Triton's model repository for an engine: `tensorrt_llm/config.pbtxt` and an empty version.

The model takes token ids and gives token ids. NVIDIA's Python models that turn text into ids and
back are not written here: they come with Triton's container, and need the tokenizer's directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.serving.engine import ServedEngine
from enginekeeper.serving.servers import TritonTensor, servers

MODEL = "tensorrt_llm"


def model_repository(
    engine: ServedEngine,
    place: str,
    *,
    streaming: bool = False,
    memory: float = 0.9,
    reuse: bool | None = None,
) -> dict[str, str]:
    """Returns the files by their paths; `place` is where the server will find the engine.

    `memory` is the part of what is free on a GPU that keys and values get; `reuse`, whether blocks
    of them are reused between requests: the backend's own default if None.
    """
    return {
        f"{MODEL}/config.pbtxt": config_pbtxt(
            engine, place, streaming=streaming, memory=memory, reuse=reuse
        ),
        f"{MODEL}/1/.keep": "",  # Triton wants the directory of a version, and this one is empty
    }


def config_pbtxt(
    engine: ServedEngine, place: str, *, streaming: bool, memory: float, reuse: bool | None = None
) -> str:
    """Returns the configuration of Triton's model; raises InputError for a place it cannot name."""
    if not place.isascii() or not place.isprintable() or not Path(place).is_absolute():
        raise InputError("not a path that Triton can be given", actual=ascii(place)[:200])
    facts = servers().triton
    parameters = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": place,
        "max_beam_width": str(engine.max_beam_width),
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": str(memory),
        "enable_chunked_context": str(engine.chunked_context).lower(),
        "exclude_input_in_output": "true",
        **({} if reuse is None else {"enable_kv_cache_reuse": str(reuse).lower()}),
    }
    lines = [
        f"name: {json.dumps(MODEL)}",
        'backend: "tensorrtllm"',
        f"max_batch_size: {engine.max_batch_size}",
        f"model_transaction_policy {{ decoupled: {str(streaming).lower()} }}",
        f"dynamic_batching {{ preferred_batch_size: [ {engine.max_batch_size} ] }}",
        *(f"input [ {_tensor(one, engine)} ]" for one in facts.inputs),
        *(f"output [ {_tensor(one, engine)} ]" for one in facts.outputs),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        *_parameters(parameters),
    ]
    return "\n".join(lines) + "\n"


def _tensor(one: TritonTensor, engine: ServedEngine) -> str:
    kind = engine.logits if one.type == "LOGITS" else one.type
    dims = ", ".join(map(str, one.dims))
    parts = [f"name: {json.dumps(one.name)}", f"data_type: TYPE_{kind}", f"dims: [ {dims} ]"]
    parts += ["reshape: { shape: [ ] }"] if one.scalar else []
    parts += ["optional: true"] if one.optional else []
    parts += ["allow_ragged_batch: true"] if one.ragged else []
    return f"{{ {' '.join(parts)} }}"


def _parameters(values: dict[str, str]) -> Iterator[str]:
    for name, value in values.items():
        yield (
            f"parameters {{ key: {json.dumps(name)} "
            f"value {{ string_value: {json.dumps(value)} }} }}"
        )
