"""Which tensors of a checkpoint go into which graph.

A decoder layer, and the head, becomes a *signature*: everything its compiled graph depends on and
nothing else. Weights are inputs of the graph, so layers that differ only in their numbers share a
signature, and so do the layers of other checkpoints of the same shape and recipe.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _linear_formats import FLOATS, PLAIN, Expected, LinearFormat, check_fits, format_of
from _step import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _model_config import ModelConfig
    from _tensor_index import TensorEntry

KV_CACHES = {None: "float32", "FP8": "fp8", "INT8": "int8"}
"""Checkpoint name of a KV cache format and the name here; unquantized is computed in float32."""


@dataclass(frozen=True)
class PlannedLinear:
    """One linear layer of a graph and the tensors that fill it."""

    layout: LinearFormat
    bias: bool
    tensors: tuple[tuple[str, str], ...]
    """Pairs of a role, such as `weight`, and the tensor's name in the checkpoint."""


@dataclass(frozen=True)
class PlannedGraph:
    """One call of a compiled graph: its signature and the checkpoint tensors it is given."""

    signature: Mapping[str, Any]
    linears: Mapping[str, PlannedLinear]
    vectors: tuple[tuple[str, str], ...]
    """Norm weights and KV cache scales: a role and the tensor's name."""

    def tensor_names(self) -> set[str]:
        """Returns every checkpoint tensor this graph reads."""
        names = {name for _, name in self.vectors}
        return names.union(*({name for _, name in part.tensors} for part in self.linears.values()))


@dataclass(frozen=True)
class Plan:
    """A whole engine: its layers in order, and its head."""

    config: ModelConfig
    layers: tuple[PlannedGraph, ...]
    head: PlannedGraph
    embedding: str
    unread: tuple[str, ...]
    """Tensors in the file that nothing reads; TensorRT-LLM warns of them, so does the report."""


class _Planner:
    """Looks tensors up, and collects everything that is absent before refusing."""

    def __init__(self, config: ModelConfig, index: Mapping[str, TensorEntry]) -> None:
        self._config = config
        self._index = index
        self._missing: list[str] = []
        self._read: set[str] = set()

    def plan(self) -> Plan:
        """Plans the engine, or refuses with every missing tensor named."""
        layers = tuple(self._layer(number) for number in range(self._config.layers))
        head = self._head()
        embedding = "transformer.vocab_embedding.weight"
        config = self._config
        self._tensor(embedding, Expected(FLOATS, ((config.vocabulary, config.hidden),)))
        if self._missing:
            raise self._missing_tensors()
        unread = tuple(sorted(set(self._index) - self._read))
        return Plan(config, layers, head, embedding, unread)

    def _layer(self, number: int) -> PlannedGraph:
        config = self._config
        prefix = f"transformer.layers.{number}."
        query, key_value = config.heads * config.head_size, config.kv_heads * config.head_size
        linears = {
            "qkv": ("attention.qkv", query + 2 * key_value, config.hidden, config.qkv_bias),
            "dense": ("attention.dense", config.hidden, query, config.dense_bias),
            "fc": ("mlp.fc", config.intermediate, config.hidden, config.mlp_bias),
            "gate": ("mlp.gate", config.intermediate, config.hidden, config.mlp_bias),
            "proj": ("mlp.proj", config.hidden, config.intermediate, config.mlp_bias),
        }
        parts = {
            role: self._linear(prefix + name, rows, columns, bias=bias)
            for role, (name, rows, columns, bias) in linears.items()
        }
        vectors = {
            "input_norm": (prefix + "input_layernorm.weight", config.hidden),
            "post_norm": (prefix + "post_layernorm.weight", config.hidden),
        }
        if config.qk_norm:
            vectors["q_norm"] = (prefix + "attention.q_layernorm.weight", config.head_size)
            vectors["k_norm"] = (prefix + "attention.k_layernorm.weight", config.head_size)
        named = [
            (role, self._tensor(name, Expected(FLOATS, ((size,),))))
            for role, (name, size) in vectors.items()
        ]
        kv_cache = self._kv_cache()
        if kv_cache != "float32":
            named += self._kv_scales(prefix + "attention.")
        return PlannedGraph(
            self._signature("layer", parts, named) | {"kv_cache": kv_cache}, parts, tuple(named)
        )

    def _head(self) -> PlannedGraph:
        config = self._config
        norm = self._tensor("transformer.ln_f.weight", Expected(FLOATS, ((config.hidden,),)))
        if config.shared_embedding or "lm_head.weight" not in self._index:
            # TensorRT-LLM's loader exempts an absent lm_head: the embedding stands in for it.
            name = "transformer.vocab_embedding.weight"
            self._tensor(name, Expected(FLOATS, ((config.vocabulary, config.hidden),)))
            output = PlannedLinear(PLAIN, bias=False, tensors=(("weight", name),))
        else:
            output = self._linear("lm_head", config.vocabulary, config.hidden, bias=False)
        vectors = (("norm", norm),)
        parts = {"output": output}
        return PlannedGraph(self._signature("head", parts, list(vectors)), parts, vectors)

    def _linear(self, module: str, rows: int, columns: int, *, bias: bool) -> PlannedLinear:
        layout = format_of(self._config.quantization, module)
        check_fits(layout, module, rows, columns)
        needed = layout.expected(rows, columns)
        if bias:
            needed["bias"] = Expected(FLOATS, ((rows,),))
        tensors = tuple(
            (role, self._tensor(f"{module}.{role}", expected)) for role, expected in needed.items()
        )
        return PlannedLinear(layout, bias, tensors)

    def _kv_cache(self) -> str:
        name = self._config.quantization.kv_cache
        if name not in KV_CACHES:
            raise Refusal(
                "unsupported-quantization",
                f"KV cache format {name} is not implemented by the inductor builder",
                where="config.json: quantization.kv_cache_quant_algo",
                expected=", ".join(str(key) for key in KV_CACHES),
                actual=name,
            )
        return KV_CACHES[name]

    def _kv_scales(self, prefix: str) -> list[tuple[str, str]]:
        """Names the scales of the cache: k and v apart, or one for both.

        TensorRT-LLM's `process_kv_scaling_factor` takes the larger of k and v where both are
        given, whatever `kv_cache_scaling_factor` says; the loader of the weights does the same.
        """
        names = {role: f"{prefix}{role}_cache_scaling_factor" for role in ("k", "v", "kv")}
        present = {role: name for role, name in names.items() if name in self._index}
        roles = ["k", "v"] if {"k", "v"} & set(present) else ["kv"]
        self._read.update(present.values())
        scalar = Expected(("F32",), ((1,), ()))
        return [(f"{role}_scale", self._tensor(names[role], scalar)) for role in roles]

    def _tensor(self, name: str, expected: Expected) -> str:
        entry = self._index.get(name)
        if entry is None:
            self._missing.append(name)
            return name
        self._read.add(name)
        if entry.dtype not in expected.dtypes or entry.shape not in expected.shapes:
            shapes = " or ".join(str(list(shape)) for shape in expected.shapes)
            raise Refusal(
                "tensor-mismatch",
                f"{name} does not have the type and shape the config prescribes",
                where=name,
                expected=f"{'/'.join(expected.dtypes)} {shapes}",
                actual=str(entry),
            )
        return name

    def _signature(
        self, kind: str, linears: Mapping[str, PlannedLinear], vectors: list[tuple[str, str]]
    ) -> dict[str, Any]:
        config = self._config
        shape = {"hidden": config.hidden, "vocabulary": config.vocabulary}
        if kind == "layer":
            shape = {
                "hidden": config.hidden,
                "heads": config.heads,
                "kv_heads": config.kv_heads,
                "head_size": config.head_size,
                "intermediate": config.intermediate,
            }
        return {
            "kind": kind,
            "shape": shape,
            "activation": config.activation if kind == "layer" else None,
            "linears": {
                role: {
                    "weight": part.layout.weight,
                    "activation": part.layout.activation,
                    "group_size": part.layout.group_size,
                    "tensors": self._types(part.tensors),
                }
                for role, part in linears.items()
            },
            "vectors": self._types(vectors),
        }

    def _types(self, pairs: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> dict[str, str]:
        return {role: str(self._index[name]) for role, name in pairs if name in self._index}

    def _missing_tensors(self) -> Refusal:
        shown = ", ".join(self._missing[:4])
        more = f" and {len(self._missing) - 4} more" if len(self._missing) > 4 else ""  # noqa: PLR2004
        promise = ""
        if any(name.endswith("prequant_scaling_factor") for name in self._missing):
            promise = "quantization.pre_quant_scale is true; "
        elif any(name.endswith("qkv.bias") for name in self._missing):
            promise = "attn_bias is true, or absent and true for this architecture; "
        return Refusal(
            "missing-tensor",
            f"required but not provided tensors: {shown}{more}",
            where=self._missing[0],
            expected=f"{len(self._missing)} tensors that config.json promises",
            actual="absent from rank0.safetensors",
            remedy=f"{promise}config.json and the tensors must come from the same export",
        )


def plan_engine(config: ModelConfig, index: Mapping[str, TensorEntry]) -> Plan:
    """Assigns a checkpoint's tensors to graphs; refuses if any is missing or of another shape."""
    return _Planner(config, index).plan()


def signature_digest(signature: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Returns the name of a graph: a digest over its signature and what compiled it."""
    document = {"signature": signature, "environment": environment}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
