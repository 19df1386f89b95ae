"""What an honest exporter makes of a source model, in our own code: for families without a pin.

The exports in `tests/assets` pin the numerics to ModelOpt; these follow the same rules, for any
decoder that the audits know, any dtype and any number of ranks, in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.validation.checkpoint import rows_per_rank
from enginekeeper.validation.config_rules import Configs, rules
from enginekeeper.validation.numerics import formats
from enginekeeper.validation.numerics.formats import Floats, narrow, round_to
from enginekeeper.validation.numerics.mapping import (
    EMBEDDING,
    Geometry,
    LinearPlace,
    Part,
    biases,
    head_linear,
    layer_linears,
    norms,
)
from enginekeeper.validation.numerics.recipes import (
    PLAIN,
    Quantized,
    WeightFormat,
    quantize_rows,
    recipe_for,
)
from enginekeeper.validation.numerics.reproduction import source_rows
from enginekeeper.validation.numerics.smoothing import BOUNDS, smooth_by
from enginekeeper.validation.rope import source_rope
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import PlannedTensor, write_tensors
from enginekeeper.validation.windows import source_windows

Array = npt.NDArray[Any]

ALGORITHMS = (
    None, "W8A16", "W8A8_SQ_PER_CHANNEL", "W4A16", "W4A16_AWQ", "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4",
)  # fmt: skip
"""The eight recipes by their names in a checkpoint; plain groups are `W4A16_AWQ` there, too."""

_GROUP = 16


@dataclass
class _Export:
    source: SourceModel
    algorithm: str | None
    dtype: str
    ranks: int
    loud: bool = True
    """Whether SmoothQuant met a channel too loud for its divisors."""
    loaded_in: str | None = None
    """What the model was loaded in, where it was not the dtype of the export."""

    def __post_init__(self) -> None:
        self.geometry = Geometry.of(self.source.config)
        self.recipe = PLAIN
        self.made_in = self.dtype if self.algorithm is None else self.loaded_in or self.dtype
        self.smoothed = self.algorithm in ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ")
        if self.algorithm is not None:
            stored = "W4A16_AWQ" if self.algorithm == "W4A16" else self.algorithm
            self.recipe = recipe_for(stored, _GROUP)
        self.tensors: list[dict[str, Array]] = [{} for _ in range(self.ranks)]

    def whole(self, name: str, values: Array) -> None:
        for rank in self.tensors:
            rank[name] = values

    def linear(self, place: LinearPlace) -> None:
        """Quantizes each part by the recipe and deals the rows or columns to the ranks."""
        vector = self._prequant(place) if self.smoothed else None
        parts = [self._quantized(place, part, vector) for part in place.parts]
        for rank, tensors in enumerate(self.tensors):
            own = [self._slice(place, part, one, rank) for part, one in parts]
            codes = np.concatenate([one.codes for one in own])
            scales = np.concatenate([one.scales for one in own])
            tensors.update(self._stored(place, codes, scales))
            if vector is not None:
                share = np.array_split(vector, self.ranks)[rank] if _by_columns(place) else vector
                stored = narrow(round_to(share, self.made_in), self.dtype)
                tensors[f"{place.name}.prequant_scaling_factor"] = stored
            self._activation(tensors, place)

    def _quantized(
        self, place: LinearPlace, part: Part, vector: Floats | None
    ) -> tuple[Part, Quantized]:
        weight = smooth_by(
            source_rows(self.source, part, 0, part.rows, self.made_in), vector, self.made_in
        )
        return part, quantize_rows(self.recipe, weight, self._shared(place), self.made_in)

    def _shared(self, place: LinearPlace) -> float:
        largest = max(self.source.largest(f"{module}.weight") for module in place.scale_group)
        return float(round_to(np.full(1, largest, np.float32), self.made_in)[0])

    def _slice(self, place: LinearPlace, part: Part, one: Quantized, rank: int) -> Quantized:
        if _by_columns(place):
            scales = one.scales
            if scales.shape[1] > 1:
                scales = np.array_split(scales, self.ranks, axis=1)[rank]
            return Quantized(np.array_split(one.codes, self.ranks, axis=1)[rank], scales)
        codes, scales = (
            _rows_of(part, values, rank, self.ranks) for values in (one.codes, one.scales)
        )
        return Quantized(codes, scales)

    def _stored(self, place: LinearPlace, codes: Floats, scales: Floats) -> dict[str, Array]:
        """Packs codes and scales as a checkpoint holds them."""
        weight, factor = f"{place.name}.weight", f"{place.name}.weights_scaling_factor"
        match self.recipe.format:
            case WeightFormat.PLAIN:
                return {weight: narrow(codes, self.dtype)}
            case WeightFormat.INT8_CHANNEL:
                return {weight: codes.astype(np.int8), factor: scales.reshape(-1)}
            case WeightFormat.INT4_GROUP:
                return {weight: formats.pack_int4_rows(codes.astype(np.int8)), factor: scales}
            case WeightFormat.FP8_TENSOR:
                return {weight: formats.encode_e4m3(codes), factor: scales[0, :1].copy()}
            case WeightFormat.FP8_CHANNEL:
                rows = {f"{place.name}.per_channel_scale": scales.reshape(-1)}
                return {weight: formats.encode_e4m3(codes), **rows}
            case WeightFormat.NVFP4:
                largest = np.float32(formats.E2M1_MAX * formats.E4M3_MAX)
                outer = np.float32(self._shared(place)) / largest
                packed = formats.pack_e2m1_columns(formats.encode_e2m1(codes))
                inner = formats.encode_e4m3(formats.round_e4m3(scales / outer))
                return {weight: packed, factor: inner, f"{factor}_2": np.array(outer)}

    def _prequant(self, place: LinearPlace) -> Floats:
        """Returns a smoothing vector as calibration finds them; some channels were silent or loud.

        SmoothQuant's is 1 over activation maxima, kept within bounds; AWQ's is any number.
        """
        random = np.random.default_rng([len(place.name), place.layer or 0])
        loud = np.exp(random.normal(0, 1, place.columns)).astype(np.float32)
        if self.algorithm == "W4A16_AWQ":
            return round_to(loud, self.made_in)
        loud[:3] = (3e4 if self.loud else 1, 0, 2e-5)
        with np.errstate(divide="ignore"):
            exact = np.float32(1) / round_to(loud, self.made_in)
        bounded: Floats = np.clip(exact, *BOUNDS)
        return bounded

    def _activation(self, tensors: dict[str, Array], place: LinearPlace) -> None:
        if self.recipe.activation in ("fp8_static", "nvfp4", "int8_static"):
            norm = np.ones(place.columns, np.float32)
            if place.norm is not None:
                norm = self.source.rows(f"{place.norm[1]}.weight")
            largest = np.sqrt(len(norm)) * np.abs(norm).max()
            limit = {"fp8_static": 448, "nvfp4": 448 * 6, "int8_static": 127}
            scale = largest / limit[self.recipe.activation]
            if self.recipe.activation == "int8_static":
                scale = 1 / 127
            tensors[f"{place.name}.activation_scaling_factor"] = np.full(1, scale, np.float32)

    def write(self, directory: Path) -> None:
        """Makes every tensor and writes the ranks and the config."""
        for layer in range(self.geometry.layers):
            for place in layer_linears(layer, self.geometry):
                self.linear(place)
        self._vectors()
        self._tables()
        directory.mkdir(parents=True)
        for rank, tensors in enumerate(self.tensors):
            planned = [PlannedTensor.of(name, values) for name, values in tensors.items()]
            write_tensors(directory / f"rank{rank}.safetensors", planned)
        (directory / "config.json").write_text(json.dumps(self._config()))

    def _vectors(self) -> None:
        for place in (*norms(self.geometry), *biases(self.geometry)):
            if not all(name in self.source for name in place.sources):
                continue
            parts = place.parts or (Part(place.sources[0].removesuffix(".weight"), "", 0),)
            pieces = [narrow(self.source.rows(name), self.dtype) for name in place.sources]
            for rank, tensors in enumerate(self.tensors):
                own = pieces
                if place.split == "column":
                    pairs = zip(parts, pieces, strict=True)
                    own = [_rows_of(part, one, rank, self.ranks) for part, one in pairs]
                tensors[place.name] = np.concatenate(own)

    def _tables(self) -> None:
        place = head_linear(self.geometry, self.geometry.vocabulary)
        head = self.source.rows(f"{place.parts[0].module}.weight")
        self.whole("transformer.vocab_embedding.weight",
                   narrow(self.source.rows(f"{EMBEDDING}.weight"), self.dtype))  # fmt: skip
        for rank, tensors in enumerate(self.tensors):
            share = np.array_split(narrow(head, self.dtype), self.ranks)[rank]
            tensors["lm_head.weight"] = share

    def _config(self) -> dict[str, Any]:
        config = self.source.config
        silent = TrtConfig.of({"num_hidden_layers": self.geometry.layers}, "config.json")
        rope = source_rope(config)
        scaling = {"type": rope.kind, **rope.parameters}
        windows = [size or 8192 for size in source_windows(config, self.geometry.layers)]
        return {
            **{rule.field: rule.expected(Configs(config, silent)) for rule in rules(
                Configs(config, silent))},
            "architecture": config.architecture,
            "dtype": self.dtype,
            "rotary_base": rope.base,
            "rotary_scaling": None if rope.kind == "default" else scaling,
            "qk_layernorm": "model.layers.0.self_attn.q_norm.weight" in self.source,
            "runtime_defaults": {"max_attention_window": windows},
            "share_embedding_table": False,
            "mapping": {"world_size": self.ranks, "tp_size": self.ranks, "pp_size": 1},
            "quantization": dict(self._block()),
        }  # fmt: skip

    def _block(self) -> Iterator[tuple[str, Any]]:
        yield "quant_algo", "W4A16_AWQ" if self.algorithm == "W4A16" else self.algorithm
        yield "kv_cache_quant_algo", None
        yield "exclude_modules", ["lm_head"]
        if self.recipe.format is WeightFormat.INT4_GROUP:
            yield "group_size", _GROUP
            yield "pre_quant_scale", self.smoothed


def export(
    source: Path,
    directory: Path,
    algorithm: str | None,
    *,
    dtype: str = "bfloat16",
    ranks: int = 1,
    loud: bool = True,
    loaded_in: str | None = None,
) -> Path:
    """Writes an honest checkpoint of a source model; returns its directory."""
    _Export(SourceModel.open(source), algorithm, dtype, ranks, loud, loaded_in).write(directory)
    return directory


def _by_columns(place: LinearPlace) -> bool:
    return place.split == "row"


def _rows_of(part: Part, values: Array, rank: int, ranks: int) -> Array:
    rows = rows_per_rank(part, ranks)
    copies = max(ranks * rows // part.rows, 1)
    return values[rank // copies * rows : (rank // copies + 1) * rows]
