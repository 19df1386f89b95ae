"""The vLLM serving bundle: what of it lies where, and what its configuration says.

    serve.yaml     options of `vllm serve`, each pinned, for its --config
    bundle.json    what was pinned: the model's files, vLLM's version, what vLLM made of it
    model/         the model as it is: weights, config.json, what serves it, and nothing else

A bundle is no engine: nothing is compiled, and no recipe is applied. Its large files are those of
the source, which the store keeps once, whatever the number of bundles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json, read_json_object, read_whole
from enginekeeper.errors import InputError
from registry.keys import EngineKey

RECIPE = "vllm-bundle"
"""What stands in a recipe's place among a bundle's names: it is signed, and seen in every list."""

BUILDER = "vllm"
"""The builder, as keys name it."""

CONFIG, DESCRIPTION, MODEL = "serve.yaml", "bundle.json", "model"
FORMAT = 1
_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ServeOptions:
    """What vLLM is told; the fields are its own options."""

    served_model_name: str
    dtype: str
    """The model's own, by name: `auto` would be chosen anew by every release."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    quantization: str | None
    """How the model's weights are quantized already; None: they are not."""
    enforce_eager: bool
    """On a CPU, where compiling takes minutes at every start and no cache of it is shipped."""
    tokenizer_mode: str = "auto"
    generation_config: str = "vllm"
    """vLLM's own defaults of sampling; where a text ends is read from generation_config.json."""
    seed: int = 0
    trust_remote_code: bool = False
    """Never: a bundle holds no code."""

    def as_dict(self) -> dict[str, Any]:
        """Returns every option that is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def text(self) -> str:
        """Returns `serve.yaml`: one option a line, each value as JSON, which YAML is, too."""
        head = (
            "# vLLM serving bundle, no engine: vllm serve BUNDLE/model --config BUNDLE/serve.yaml\n"
        )
        rows = self.as_dict().items()
        lines = (f"{name.replace('_', '-')}: {json.dumps(value)}\n" for name, value in rows)
        return head + "".join(lines)


def dtype_of(config: Mapping[str, Any], where: str) -> str:
    """Returns the number format of a model's weights; raises InputError where it is not said."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        name = part.get("dtype") or part.get("torch_dtype")
        if name is not None:
            if name not in _DTYPES:
                break
            return str(name)
    raise InputError(
        "the model's number format is not usable", where=f"{where}: dtype",
        actual=repr(config.get("dtype") or config.get("torch_dtype")), expected=", ".join(_DTYPES),
    )  # fmt: skip


def quantization_of(config: Mapping[str, Any]) -> str | None:
    """Returns how a model's weights are quantized already, as its config.json names it."""
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, Mapping) else None
    return None if method is None else str(method)


def read_bundle(directory: Path) -> dict[str, Any]:
    """Returns a bundle's description; raises InputError for what is none."""
    path = directory / DESCRIPTION
    document = read_json_object(path)
    files = (document.get("model") or {}).get("files")
    told = isinstance(files, list) and all(isinstance(one, Mapping) for one in files)
    if document.get("format") != FORMAT or not told or not isinstance(document.get("serve"), dict):
        raise InputError(
            "not a vLLM serving bundle of this version", where=str(path),
            actual=document.get("format"), expected=f"format {FORMAT}",
        )  # fmt: skip
    return document


def read_serve(path: Path) -> dict[str, Any]:
    """Returns the options of a `serve.yaml` as they are written; raises InputError for other YAML.

    One option a line, its value in JSON: what is read here is what any reader of YAML reads.
    """
    options: dict[str, Any] = {}
    for number, line in enumerate(read_whole(path).decode(errors="replace").splitlines(), start=1):
        if line.startswith("#") or not line:
            continue
        where = f"{path}: line {number}"
        name, colon, value = line.partition(": ")
        if not colon or name.replace("-", "_") in options or not name.isascii():
            raise InputError(
                "not an option", where=where, actual=line[:200], expected="option: value"
            )
        options[name.replace("-", "_")] = parse_json(value, where)
    return options


def is_vllm_bundle(key: EngineKey) -> bool:
    """Says of what goes by a key whether it is a serving bundle and no engine."""
    return key.hard.get("builder") == BUILDER


def on_cpu(key: EngineKey) -> bool:
    """Says whether a bundle is for vLLM's build for CPUs."""
    return "gpu_product" not in key.hard
