"""A checkpoint in Hugging Face's format, as ModelOpt writes it, in TensorRT-LLM's words.

Servers of Hugging Face's format (TensorRT-LLM's PyTorch backend, vLLM) read `config.json`,
`hf_quant_config.json` and tensors under the source's names. Here they get the names and the fields
that the audits and the twins know, so that one set of checks judges both formats. Nothing is
copied or converted: a tensor of several parts is read from where its parts are.

Rules:

- what a server multiplies at once (q, k and v) has one per-tensor scale: parts that differ in it
  are refused, because a server takes one of them;
- a field of the config becomes what the config audit would expect of it, so that the audit compares
  the export's config with the source's; fields that no form knows are compared as they are;
- a tensor nobody knows keeps its name: the census finds it.

Pre-quant vectors (AWQ) of linears that a norm feeds are folded into it: `Checkpoint.folds_norms`
says so, and the audits hold norm and linears against the source together.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import QuantizationBlock, TrtConfig
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.config_rules import Configs, rules
from enginekeeper.validation.numerics.mapping import (
    EMBEDDING,
    Geometry,
    LinearPlace,
    layer_linears,
    norms,
)
from enginekeeper.validation.rope import expected_parameters, source_rope
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import StoredTensor, TensorFile
from enginekeeper.validation.unknown_fields import EXPORTED
from enginekeeper.validation.windows import source_windows

__all__ = ["QUANTIZATION", "is_unified", "restated"]

QUANTIZATION = "hf_quant_config.json"

_TABLE = "transformer.vocab_embedding"
_HEAD = "lm_head"
_VECTOR = "pre_quant_scale"
_ROWS = ("weight", "bias")
"""What the parts of a linear hold row by row."""


@dataclass(frozen=True)
class JoinedTensor(StoredTensor):
    """Tensors one under the other, each where it lies; `file` and `start` are the first one's."""

    parts: tuple[StoredTensor, ...] = ()

    @classmethod
    def of(cls, name: str, parts: tuple[StoredTensor, ...]) -> JoinedTensor:
        """Joins tensors of one format and width; raises InputError for others."""
        first = parts[0]
        for part in parts:
            if (part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]):
                raise InputError(
                    "parts of one linear are stored in different ways",
                    where=f"{part.file}: {part.name}",
                    actual=f"{part.dtype} {list(part.shape)}",
                    expected=f"{first.dtype} of the width of {first.name}, {list(first.shape)}",
                )
            if not part.shape:
                raise InputError(
                    "a part of a linear is one number, not a row for every output",
                    where=f"{part.file}: {part.name}",
                )
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return cls(first.file, name, first.dtype, shape, first.start, parts)

    def read(self) -> npt.NDArray[Any]:
        """Returns all parts, joined."""
        return np.concatenate([part.read() for part in self.parts])

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the rows `start:stop`, reading no more than they take."""
        pieces, before = [], 0
        for part in self.parts:
            low, high = max(start - before, 0), min(stop - before, part.shape[0])
            if low < high:
                pieces.append(part.rows(low, high))
            before += part.shape[0]
        return np.concatenate(pieces) if pieces else self.parts[0].rows(0, 0)


def is_unified(directory: Path) -> bool:
    """Says whether a directory's checkpoint is in Hugging Face's format; raises InputError.

    A quantized one says so in a file of its own; one that is not is a model as it is.
    """
    if (directory / QUANTIZATION).is_file():
        return True
    config = read_json_object(directory / "config.json")
    return "architectures" in config and "architecture" not in config


def restated(directory: Path) -> tuple[dict[str, Any], TensorFile]:
    """Returns the config and the tensors in TensorRT-LLM's words.

    Raises InputError for what cannot be used, and for what a server could not load.
    """
    model = SourceModel.open(directory)
    return _config(model), _Tensors(model, Geometry.of(model.config)).file()


def _config(model: SourceModel) -> dict[str, Any]:
    where = model.directory / QUANTIZATION
    block = _block(model, where)
    ours, own = model.config, model.config.model_extra or {}
    silent = TrtConfig.of({"num_hidden_layers": ours.num_hidden_layers}, str(model.directory))
    configs = Configs(ours, silent)
    return {
        **{rule.field: rule.expected(configs) for rule in rules(configs)},
        **_rotation(ours),
        "architecture": ours.architecture,
        "dtype": own.get("dtype") or own.get("torch_dtype"),
        "qk_layernorm": "model.layers.0.self_attn.q_norm.weight" in model,
        "runtime_defaults": {"max_attention_window": source_windows(ours, configs.geometry.layers)},
        "share_embedding_table": configs.geometry.tied and f"{_HEAD}.weight" not in model,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        EXPORTED: dict(own),
        "quantization": {
            **block,
            "exclude_modules": _excluded(
                QuantizationBlock.of(block, str(where)), configs.geometry, where
            ),
        },
    }


def _block(model: SourceModel, where: Path) -> dict[str, Any]:
    """Returns the quantization block; nothing is quantized where nothing speaks of it."""
    said = (model.config.model_extra or {}).get("quantization_config")
    if not where.is_file() and said is None:
        return {"quant_algo": None, "kv_cache_quant_algo": None}
    block = read_json_object(where).get("quantization")
    if not isinstance(block, dict):
        raise InputError(
            "there is no quantization block", where=str(where), actual=repr(block)[:80]
        )
    return block


def _rotation(config: HfConfig) -> dict[str, Any]:
    rope = source_rope(config)
    scaling = {"rope_type": rope.kind, **expected_parameters(rope)}
    return {
        "rotary_base": rope.base,
        "rotary_pct": rope.partial,
        "rotary_scaling": None if rope.kind == "default" else scaling,
    }


def _excluded(block: QuantizationBlock, geometry: Geometry, where: Path) -> list[str]:
    """Returns the linears that the block leaves unquantized, by TensorRT-LLM's names."""
    patterns = block.exclude_modules or []

    def left_out(module: str) -> bool:
        return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)

    found = [name for name, module in ((_HEAD, _HEAD), (_TABLE, EMBEDDING)) if left_out(module)]
    for place in _places(geometry):
        alone = {left_out(part.module) for part in place.parts}
        if len(alone) > 1:
            raise InputError(
                "parts of one linear are quantized and others are not",
                where=f"{where}: exclude_modules",
                actual=", ".join(part.module for part in place.parts if left_out(part.module)),
                expected="all of them or none: a server multiplies them at once",
            )
        found += [place.name] if True in alone else []
    return found


def _places(geometry: Geometry) -> Iterator[LinearPlace]:
    for layer in range(geometry.layers):
        yield from layer_linears(layer, geometry)


@dataclass(frozen=True)
class _Tensors:
    """The tensors of one checkpoint."""

    model: SourceModel
    geometry: Geometry

    def file(self) -> TensorFile:
        """Returns every tensor by its name in TensorRT-LLM's words, the unknown by their own."""
        taken: set[str] = set()
        found: dict[str, StoredTensor] = {}
        for name, parts, joined in self._named():
            present = [self.model.tensors[part] for part in parts if part in self.model]
            taken.update(tensor.name for tensor in present)
            if len(present) == len(parts):
                found[name] = JoinedTensor.of(name, tuple(present)) if joined else _one(present)
        rest = {name: one for name, one in self.model.tensors.items() if name not in taken}
        return TensorFile(self.model.directory / "model.safetensors", {**rest, **found})

    def _named(self) -> Iterator[tuple[str, tuple[str, ...], bool]]:
        """Yields our name, the names of the parts, and whether they lie one under the other."""
        yield f"{_TABLE}.weight", (f"{EMBEDDING}.weight",), False
        yield f"{_HEAD}.weight", (f"{_HEAD}.weight",), False
        for vector in norms(self.geometry):
            yield vector.name, vector.sources, False
        for layer in range(self.geometry.layers):
            trt, hf = f"transformer.layers.{layer}.attention", f"model.layers.{layer}.self_attn"
            for key in ("k", "v"):
                yield f"{trt}.{key}_cache_scaling_factor", (f"{hf}.{key}_proj.{key}_scale",), False
        for place in _places(self.geometry):
            modules = [part.module for part in place.parts]
            for ours, theirs in self._suffixes(modules[0]).items():
                parts = tuple(f"{module}.{theirs}" for module in modules)
                yield f"{place.name}.{ours}", parts, len(parts) > 1 and self._by_rows(parts[0])

    def _suffixes(self, module: str) -> Mapping[str, str]:
        """Returns what a linear's tensors are called in our words, and in theirs."""
        weight = self.model.tensors.get(f"{module}.weight")
        scale = self.model.tensors.get(f"{module}.weight_scale")
        by_channel = (
            weight is not None
            and scale is not None
            and weight.dtype == "F8_E4M3"
            and scale.shape == weight.shape[:1]
        )
        return {
            "weight": "weight",
            "bias": "bias",
            "per_channel_scale" if by_channel else "weights_scaling_factor": "weight_scale",
            "weights_scaling_factor_2": "weight_scale_2",
            "activation_scaling_factor": "input_scale",
            "prequant_scaling_factor": _VECTOR,
        }

    def _by_rows(self, name: str) -> bool:
        """Says whether a part has a row for every output, and is not one number for all of them."""
        tensor = self.model.tensors.get(name)
        if name.endswith(_VECTOR):
            return False  # a column's, and all parts have the same columns
        return name.endswith(_ROWS) or (tensor is not None and tensor.shape not in ((), (1,)))


def _one(present: list[StoredTensor]) -> StoredTensor:
    """Returns the number or vector that all parts share; raises InputError where they differ."""
    first = present[0]
    for other in present[1:]:
        if not (first.nbytes and other.nbytes):
            raise InputError("a scale holds no number", where=f"{other.file}: {other.name}")
        if not np.array_equal(first.read().reshape(-1), other.read().reshape(-1)):
            raise InputError(
                "parts that a server multiplies at once have different scales",
                where=f"{other.file}: {other.name}",
                actual=float(other.read().reshape(-1)[0]),
                expected=f"that of {first.name}, {float(first.read().reshape(-1)[0])}",
                remedy="export the checkpoint again: ModelOpt gives them one scale",
            )
    return first
