"""A TensorRT-LLM checkpoint directory: its config, and the tensors of all ranks put together.

Ranks are numbered tensor-parallel first: rank = pipeline stage x tp_size + tensor-parallel rank.
A pipeline stage counts its own layers from zero. What comes out here is named as if there were
one rank: layer numbers over the whole model, rows and columns of the whole linear.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.configs.trtllm import (
    ModuleQuantization,
    QuantizationBlock,
    QuantizedModules,
    TrtConfig,
)
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.numerics.formats import Floats, widen
from enginekeeper.validation.numerics.linears import (
    MisshapenLinearError,
    StoredLinear,
    read_linear,
)
from enginekeeper.validation.numerics.mapping import Geometry, LinearPlace, Part, VectorPlace
from enginekeeper.validation.numerics.recipes import (
    PLAIN,
    LinearRecipe,
    Quantized,
    WeightFormat,
    recipe_for,
)
from enginekeeper.validation.tensor_files import StoredTensor, TensorFile
from enginekeeper.validation.unified import is_unified, restated

DEFAULT_EXCLUDED = (
    "*lm_head",
    "*router",
    "*vocab_embedding",
    "*position_embedding",
    "*block_embedding",
    "*shared_expert_gate",
)
"""What TensorRT-LLM leaves unquantized when there is no list."""

_RowReader = Callable[[StoredLinear, int, int], npt.NDArray[Any]]


class UnusableCheckpointError(InputError):
    """A checkpoint directory lacks a rank."""


@dataclass(frozen=True)
class Quantization:
    """The config's `quantization` block, with TensorRT-LLM's defaults where it is silent."""

    algorithm: str | None
    kv_cache: str | None
    group_size: int | None
    prequant: bool
    zero_point: bool
    excluded: tuple[str, ...]
    layers: Mapping[str, ModuleQuantization]
    """Per-module settings of a MIXED_PRECISION checkpoint, from `quant_cfg.json`."""

    def recipe(self, name: str) -> LinearRecipe:
        """Returns what the config says of one linear; raises UnknownRecipeError."""
        if self.algorithm == "MIXED_PRECISION":
            own = self.layers.get(name, ModuleQuantization())
            return recipe_for(own.quant_algo, own.group_size)
        if self.excludes(name):
            return PLAIN
        return recipe_for(self.algorithm, self.group_size)

    def excludes(self, name: str) -> bool:
        """Whether a module is left unquantized; matches as TensorRT-LLM does, over full names."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.excluded)


@dataclass(frozen=True)
class Checkpoint:
    """The config and the tensor files of all ranks."""

    directory: Path
    config: TrtConfig
    quantization: Quantization
    ranks: tuple[TensorFile, ...]
    folds_norms: bool = False
    """Whether norms have taken over the pre-quant vectors of the linears that they feed."""

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Reads the config and every rank's header; raises InputError for what cannot be used.

        A checkpoint in Hugging Face's format is one rank.
        """
        if is_unified(directory):
            document, tensors = restated(directory)
            found = cls.of(directory, document, [tensors])
            return replace(found, folds_norms=found.quantization.prequant)
        document = read_json_object(directory / "config.json")
        config = TrtConfig.of(document, str(directory / "config.json"))
        world = config.tensor_parallel * config.pipeline_parallel
        paths = (directory / rank_file(rank) for rank in range(world))
        files = list(itertools.takewhile(Path.is_file, paths))
        return cls.of(directory, document, [TensorFile.open(path) for path in files])

    @classmethod
    def of(
        cls, directory: Path, document: Mapping[str, Any], ranks: Sequence[TensorFile]
    ) -> Checkpoint:
        """Puts a checkpoint together from a config and ranks that were read; raises InputError."""
        config = TrtConfig.of(document, str(directory / "config.json"))
        world = config.tensor_parallel * config.pipeline_parallel
        if len(ranks) < world:
            raise UnusableCheckpointError(
                "the tensors of a rank are missing",
                where=str(directory / rank_file(len(ranks))),
                expected=f"{world} ranks: mapping.tp_size x mapping.pp_size in config.json",
            )
        return cls(directory, config, _quantization(directory, config), tuple(ranks[:world]))

    @property
    def tensor_parallel(self) -> int:
        """Ranks that share each layer."""
        return self.config.tensor_parallel

    @property
    def pipeline_parallel(self) -> int:
        """Stages that the layers are dealt to."""
        return self.config.pipeline_parallel

    @property
    def dtype(self) -> str:
        """The dtype of everything that is not quantized."""
        return self.config.dtype or "float16"

    def vocabulary(self, geometry: Geometry) -> int:
        """Returns how many rows the embedding and the head have, padding included."""
        return max(self.config.vocab_size or 0, geometry.vocabulary)

    @property
    def layers_per_stage(self) -> int:
        """How many layers a pipeline stage holds."""
        return max(self.config.num_hidden_layers // self.pipeline_parallel, 1)

    def stage(self, layer: int | None, name: str) -> tuple[int, str]:
        """Returns the pipeline stage that holds a tensor, and the tensor's name there."""
        if layer is None:
            last = name.startswith(("lm_head", "transformer.ln_f"))
            return (self.pipeline_parallel - 1 if last else 0), name
        per_stage = self.layers_per_stage
        stage = min(layer // per_stage, self.pipeline_parallel - 1)
        local = f"transformer.layers.{layer - stage * per_stage}."
        return stage, name.replace(f"transformer.layers.{layer}.", local, 1)

    def shards(self, layer: int | None, name: str) -> list[TensorFile]:
        """Returns the files of the stage that holds a layer, one for each tensor-parallel rank."""
        stage, _ = self.stage(layer, name)
        start = stage * self.tensor_parallel
        return list(self.ranks[start : start + self.tensor_parallel])

    def tensors(self, layer: int | None, name: str) -> list[StoredTensor]:
        """Returns a tensor's slices in rank order; ranks without it are left out."""
        _, local = self.stage(layer, name)
        return [file[local] for file in self.shards(layer, name) if local in file]

    def linear(self, place: LinearPlace) -> AssembledLinear:
        """Reads a linear from all its ranks; raises MisshapenLinearError."""
        _, local = self.stage(place.layer, f"{place.name}.")
        files = self.shards(place.layer, place.name)
        if place.replicated:
            files = files[:1]
        local = local.removesuffix(".")
        return AssembledLinear.of(place, tuple(_slice(f, local, place.name) for f in files))

    def vector(self, place: VectorPlace) -> Floats | None:
        """Returns a norm, or a bias that is not split, or None where there is none."""
        slices = self.tensors(place.layer, place.name)
        return widen(slices[0].read()) if slices else None

    def bias(self, place: VectorPlace, parts: Sequence[Part]) -> Floats | None:
        """Returns a bias put together from the ranks' slices of its parts, or None."""
        slices = [widen(tensor.read()) for tensor in self.tensors(place.layer, place.name)]
        if not slices or place.split is None or len(slices) == 1:
            return slices[0] if slices else None
        pieces, offset = [], 0
        for part in parts:
            for rank, low, high in _rank_spans(part, len(slices), 0, part.rows):
                pieces.append(slices[rank][offset + low : offset + high])
            offset += rows_per_rank(part, len(slices))
        return np.concatenate(pieces)

    def names(self) -> Iterator[str]:
        """Yields the name of every tensor, as if there were one rank."""
        for rank, file in enumerate(self.ranks):
            first = rank // self.tensor_parallel * self.layers_per_stage
            for name in file:
                prefix, layers, rest = name.partition("transformer.layers.")
                number, dot, tail = rest.partition(".")
                if layers and not prefix and number.isdecimal():
                    yield f"{layers}{first + int(number)}{dot}{tail}"
                else:
                    yield name


@dataclass(frozen=True)
class AssembledLinear:
    """One linear put together from its ranks; rows and columns are those of the HF linears."""

    place: LinearPlace
    shards: tuple[StoredLinear, ...]
    prequant: Floats | None

    @classmethod
    def of(cls, place: LinearPlace, shards: tuple[StoredLinear, ...]) -> AssembledLinear:
        """Checks that the slices add up to the linear; raises MisshapenLinearError."""
        across = len(shards) if place.split == "row" else 1
        columns = place.columns // across
        rows = place.rows
        if place.split == "column":
            rows = sum(rows_per_rank(part, len(shards)) for part in place.parts)
        for shard in shards:
            if (shard.rows, shard.columns) != (rows, columns):
                raise MisshapenLinearError(
                    "the weight is not of the shape the source model has",
                    where=f"{place.name}.weight",
                    actual=f"{shard.rows} x {shard.columns} per rank ({shard.format.value})",
                    expected=f"{rows} x {columns} per rank",
                )
            if shard.format is not shards[0].format:
                raise MisshapenLinearError(
                    "the ranks hold different number formats",
                    where=f"{place.name}.weight",
                    actual=shard.format.value,
                    expected=shards[0].format.value,
                )
            if shard.scales.shape[1] != shards[0].scales.shape[1]:
                raise MisshapenLinearError(
                    "the ranks hold scales for groups of different sizes",
                    where=f"{place.name}.weights_scaling_factor",
                    actual=f"{shard.scales.shape[1]} groups",
                    expected=f"{shards[0].scales.shape[1]} groups",
                )
        prequants = [shard.prequant for shard in shards if shard.prequant is not None]
        if prequants and len(prequants) != len(shards):
            raise MisshapenLinearError(
                "only some ranks have it", where=f"{place.name}.prequant_scaling_factor"
            )
        prequant = prequants[0] if prequants else None
        if across > 1 and prequants:
            prequant = np.concatenate(prequants)
        return cls(place, shards, prequant)

    @property
    def first(self) -> StoredLinear:
        """The first rank's slice, for what all ranks share."""
        return self.shards[0]

    def part_rows(self, part: Part, start: int, stop: int) -> Floats:
        """Returns rows of one part as the engine multiplies them: prequant is not applied."""
        return self._gather(part, start, stop, StoredLinear.dequantize, across=True)

    def part_quantized(self, part: Part, start: int, stop: int) -> Quantized:
        """Returns rows of one part as they are stored, with their scales."""
        scales = self.part_scales(part, start, stop)
        if self.scales_agree:
            return Quantized(
                self._gather(part, start, stop, StoredLinear.codes, across=True), scales
            )
        return Quantized(self.part_rows(part, start, stop) / scales, scales)

    def part_as_stored(self, part: Part, start: int, stop: int) -> npt.NDArray[Any]:
        """Returns the numbers of one part's rows in the format of the files, INT4 unpacked."""
        return self._gather(part, start, stop, StoredLinear.as_stored, across=True)

    @cached_property
    def scales_agree(self) -> bool:
        """Whether `part_scales` are those of all columns: ranks side by side may differ."""
        if self.place.split != "row" or self.grouped:
            return True
        return all(np.array_equal(one.scales, self.first.scales) for one in self.shards)

    def part_scales(self, part: Part, start: int, stop: int) -> Floats:
        """Returns the scales of one part's rows, one row each."""
        return self._gather(part, start, stop, StoredLinear.scale_rows, across=self.grouped)

    @property
    def grouped(self) -> bool:
        """Whether a row has a scale per group of columns."""
        return self.first.format in (WeightFormat.INT4_GROUP, WeightFormat.NVFP4)

    def _gather(
        self, part: Part, start: int, stop: int, read: _RowReader, *, across: bool
    ) -> npt.NDArray[Any]:
        """Joins the ranks' slices; `across`: a row-parallel linear's ranks lie side by side."""
        if self.place.split == "row":
            pieces = [read(shard, start, stop) for shard in self.shards[: None if across else 1]]
            return np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        before = self.place.parts[: self.place.parts.index(part)]
        offset = sum(rows_per_rank(other, len(self.shards)) for other in before)
        pieces = [
            read(self.shards[rank], offset + low, offset + high)
            for rank, low, high in _rank_spans(part, len(self.shards), start, stop)
        ]
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def _slice(file: TensorFile, local: str, name: str) -> StoredLinear:
    """Reads a linear that a rank calls `local`; what it raises names it as if there were one rank.

    A tensor that only one rank lacks is found by the file's name.
    """
    try:
        return read_linear(file, local)
    except MisshapenLinearError as error:
        raise MisshapenLinearError(
            error.what,
            where=(error.where or local).replace(local, name, 1),
            actual=f"absent from {file.path.name}" if error.actual is None else error.actual,
            expected=error.expected,
        ) from error


def rank_file(rank: int) -> str:
    """Returns what the file of a rank is called."""
    return f"rank{rank}.safetensors"


def rows_per_rank(part: Part, ranks: int) -> int:
    """Returns how many rows of a part a rank has; too few key and value heads are repeated."""
    if part.heads is not None and part.heads < ranks:
        return part.rows // part.heads
    return -(-part.rows // ranks)


def _rank_spans(part: Part, ranks: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yields (rank, first row, last row) of the slices that hold the part's rows `start:stop`."""
    per_rank = rows_per_rank(part, ranks)
    copies = max(ranks * per_rank // part.rows, 1) if part.heads is not None else 1
    while start < stop:
        number, low = divmod(start, per_rank)
        high = min(per_rank, low + stop - start)
        yield number * copies, low, high
        start += high - low


def _quantization(directory: Path, config: TrtConfig) -> Quantization:
    block = config.quantization or QuantizationBlock()
    modules: Mapping[str, ModuleQuantization] = {}
    details = directory / "quant_cfg.json"
    if block.quant_algo == "MIXED_PRECISION" and details.is_file():
        listed = QuantizedModules.of(read_json_object(details), str(details))
        modules = listed.quantized_layers or {}
    excluded = block.exclude_modules
    return Quantization(
        algorithm=block.quant_algo,
        kv_cache=block.kv_cache_quant_algo,
        group_size=block.group_size,
        prequant=bool(block.pre_quant_scale),
        zero_point=bool(block.has_zero_point),
        # An empty list excludes nothing (TensorRT-LLM PR 3567); before, it stood for the defaults.
        excluded=DEFAULT_EXCLUDED if excluded is None else tuple(excluded),
        layers=modules,
    )
