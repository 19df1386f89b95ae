"""What a server must know of an engine: from its key and its config.json, after both verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from registry.keys import SIMULATED_BUILDERS, EngineKey

TENSORRT, PYTORCH = "tensorrt_llm", "trtllm_pytorch"
"""Builders, as keys name them."""
_LOGITS = {"float32": "FP32", "float16": "FP16"}
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class ServedEngine:
    """A TensorRT engine and its limits."""

    directory: Path
    release: str
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    tensor_parallel: int
    pipeline_parallel: int
    logits: str
    """`FP32` or `FP16`, as Triton writes it."""
    chunked_context: bool
    """It was built so that long prompts can be taken in pieces."""

    @property
    def ranks(self) -> int:
        """Processes, one for each GPU."""
        return self.tensor_parallel * self.pipeline_parallel


def served_engine(directory: Path, key: EngineKey) -> ServedEngine:
    """Reads an engine's limits; raises InputError for what no server of engines could load.

    The caller has verified the directory.
    """
    builder = key.hard.get("builder")
    if builder != TENSORRT:
        raise InputError(
            "no TensorRT engine", where=str(directory), actual=f"builder {builder}",
            expected=f"builder {TENSORRT}",
            remedy=_ELSEWHERE.get(str(builder), "see docs/fleet.md, exporters"),
        )  # fmt: skip
    return read_engine(directory, str(key.hard.get("tensorrt_llm")))


def read_engine(directory: Path, release: str) -> ServedEngine:
    """Reads the limits of a release's engine, whatever made it; raises InputError as above.

    One that was refitted says what it said without its weights: `loadable` tells them apart.
    """
    file = directory / "config.json"
    config = read_json_object(file)
    version, build = config.get("version"), _mapping(config, "build_config", file)
    if version != release:
        raise InputError(
            "the engine is of another release than its key", where=str(file), actual=version,
            expected=release,
        )  # fmt: skip
    model = _mapping(config, "pretrained_config", file)
    mapping = model.get("mapping") or {}
    plugins = build.get("plugin_config") or {}
    if not isinstance(mapping, Mapping) or not isinstance(plugins, Mapping):
        raise InputError("not an engine's config.json", where=str(file))
    return ServedEngine(
        directory=directory,
        release=str(version),
        **{name: _limit(build, name, file) for name in _LIMITS},
        tensor_parallel=_limit(mapping, "tp_size", file, 1),
        pipeline_parallel=_limit(mapping, "pp_size", file, 1),
        logits=_LOGITS.get(str(model.get("logits_dtype", "float32")), "FP32"),
        chunked_context=plugins.get("use_paged_context_fmha") is True,
    )


_LIMITS = ("max_batch_size", "max_seq_len", "max_num_tokens", "max_beam_width")
_ELSEWHERE = {
    PYTORCH: "it is a checkpoint for TensorRT-LLM's PyTorch backend and for vLLM: export vllm",
    "vllm": "it is a vLLM serving bundle: export vllm",
    **dict.fromkeys(SIMULATED_BUILDERS, "a double made it: no server loads it"),
    "inductor": "an engine of the embedded builder runs on a CPU, in Enginekeeper's own runner",
}


def _mapping(document: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any]:
    found = document.get(name)
    if not isinstance(found, Mapping):
        raise InputError("not an engine's config.json", where=f"{file}: {name}")
    return found


def _limit(document: Mapping[str, Any], name: str, file: Path, default: int | None = None) -> int:
    value = document.get(name, default)
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise InputError(
            "not a limit of an engine", where=f"{file}: {name}", actual=repr(value)[:80],
            expected="a whole number from 1 on",
        )  # fmt: skip
    return value
