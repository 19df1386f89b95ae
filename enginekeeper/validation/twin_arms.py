"""Where a twin's numbers come from: the source through the recipe, or the checkpoint as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.documents import read_json_object
from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.numerics.computed_in import computed_in
from enginekeeper.validation.numerics.formats import Floats, round_to
from enginekeeper.validation.numerics.mapping import (
    Geometry,
    LinearPlace,
    VectorPlace,
    embedding_table,
    head_linear,
)
from enginekeeper.validation.numerics.open_roundings import settled
from enginekeeper.validation.numerics.recipes import PLAIN, WeightFormat
from enginekeeper.validation.numerics.reproduction import (
    Reproduction,
    reproduce,
    row_chunks,
)
from enginekeeper.validation.other_roundings import is_as_announced, is_rounded_otherwise
from enginekeeper.validation.rope import checkpoint_rope
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_vectors import folding

FED = ("input_layernorm.weight", "post_layernorm.weight")
"""The norms that feed quantized linears."""

Rows = Callable[[int, int], Floats]


class TwinArm(Protocol):
    """One way to fill a twin's tensors."""

    def rows(self, place: LinearPlace, stored: AssembledLinear, index: int) -> Rows:
        """Returns a reader of one part's rows as they are multiplied with x·prequant."""
        ...

    def vector(self, place: VectorPlace) -> Floats | None:
        """Returns a norm or a bias, or None where the arm has none."""
        ...

    def head_is_separate(self) -> bool:
        """Says whether the output head is another matrix than the embedding table."""
        ...

    def config(self, *, tied: bool) -> dict[str, Any]:
        """Returns the Hugging Face config of the twin."""
        ...


@dataclass(frozen=True)
class RecipeArm:
    """The source, quantized and dequantized by our own code."""

    source: SourceModel
    checkpoint: Checkpoint
    latest: dict[str, Reproduction] = field(default_factory=dict)
    """The linear being written: its parts share what was found out about it."""

    def rows(self, place: LinearPlace, stored: AssembledLinear, index: int) -> Rows:
        """Requantizes from the source; embeddings are only rounded to the checkpoint's dtype.

        Which of several valid roundings was chosen is learned: it is the checkpoint's own.
        """
        if place.name not in self.latest:
            recipe = PLAIN
            if place.name != "transformer.vocab_embedding":
                recipe = self.checkpoint.quantization.recipe(place.name)
            dtype = self.checkpoint.dtype
            self.latest.clear()
            taken = None
            if self.checkpoint.folds_norms:
                taken = folding(self.source, self.checkpoint, place)
            made_in = computed_in(self.source, place, recipe, stored, dtype, folded=taken)
            self.latest[place.name] = reproduce(
                self.source, place, recipe, stored, dtype=made_in, stored_in=dtype, folded=taken
            )
        again, part = self.latest[place.name], place.parts[index]
        announced = is_as_announced(stored, again.recipe)
        if announced and is_rounded_otherwise(stored, again, place, index):
            return lambda start, stop: stored.part_rows(part, start, stop)

        def read(start: int, stop: int) -> Floats:
            weight = again.weight(part, index, start, stop)
            own = again.quantize(weight)
            smoothed_in = again.open_in(index)
            if not announced or smoothed_in is None:
                return own.values
            there = stored.part_quantized(part, start, stop)
            return settled(own, weight, there, smoothed_in).values

        return read

    def vector(self, place: VectorPlace) -> Floats | None:
        """Rounds the source's tensor to the checkpoint's dtype.

        A norm that has taken a vector over is learned like the vector: it is the checkpoint's own.
        """
        if self.checkpoint.folds_norms and place.name.endswith(FED):
            return self.checkpoint.vector(place)
        if not all(name in self.source for name in place.sources):
            return None
        values = np.concatenate([self.source.rows(name) for name in place.sources])
        return round_to(values, self.checkpoint.dtype)

    def head_is_separate(self) -> bool:
        """Says so where the source unties it or the recipe quantizes it."""
        untied = not Geometry.of(self.source.config).tied
        quantized = self.checkpoint.quantization.recipe("lm_head").format is not WeightFormat.PLAIN
        return untied or quantized

    def config(self, *, tied: bool) -> dict[str, Any]:
        """Returns the source's own config."""
        return {**_source_config(self.source), "tie_word_embeddings": tied}


@dataclass(frozen=True)
class CheckpointArm:
    """The checkpoint, dequantized."""

    source: SourceModel
    checkpoint: Checkpoint

    def rows(self, place: LinearPlace, stored: AssembledLinear, index: int) -> Rows:
        """Dequantizes what is stored."""
        part = place.parts[index]
        return lambda start, stop: stored.part_rows(part, start, stop)

    def vector(self, place: VectorPlace) -> Floats | None:
        """Returns what is stored; a bias of zeros is none where the source has none."""
        values = self.checkpoint.bias(place, place.parts)
        if values is None or values.any() or all(name in self.source for name in place.sources):
            return values
        return None

    def head_is_separate(self) -> bool:
        """Compares the stored head with the stored table; a shared table is never separate."""
        if self.checkpoint.config.share_embedding_table:
            return False
        geometry = Geometry.of(self.source.config)
        rows = self.checkpoint.vocabulary(geometry)
        head = self.checkpoint.linear(head_linear(geometry, rows))
        table = self.checkpoint.linear(embedding_table(geometry, rows, self.checkpoint.config))
        if head.first.format is not WeightFormat.PLAIN:
            return True
        part, of_table = head.place.parts[0], table.place.parts[0]
        return not all(
            np.array_equal(head.part_rows(part, a, b), table.part_rows(of_table, a, b))
            for a, b in row_chunks(geometry.vocabulary, geometry.hidden)
        )

    def config(self, *, tied: bool) -> dict[str, Any]:
        """Returns the source's config with every field the checkpoint states or leaves assumed."""
        ours = self.checkpoint.config
        config = _source_config(self.source)
        config.update(
            tie_word_embeddings=tied,
            rms_norm_eps=1e-5 if ours.norm_epsilon is None else ours.norm_epsilon,
            hidden_act="silu" if ours.hidden_act == "swiglu" else ours.hidden_act or "gelu",
        )
        sizes = {
            "num_attention_heads": ours.num_attention_heads,
            "num_key_value_heads": ours.num_key_value_heads,
            "head_dim": ours.head_size,
            "max_position_embeddings": ours.max_position_embeddings,
        }
        config.update({name: size for name, size in sizes.items() if size is not None})
        _set_window(config, ours)
        _set_rope(config, ours)
        return config


def _source_config(source: SourceModel) -> dict[str, Any]:
    """Returns the config as the file has it, so that a multimodal wrapper stays one."""
    return read_json_object(source.directory / "config.json")


def _set_window(config: dict[str, Any], ours: TrtConfig) -> None:
    """Writes the checkpoint's attention window over the source's, where the source has one."""
    if not config.get("sliding_window"):
        return
    if not any(ours.max_attention_window):
        config["sliding_window"] = None
        config.pop("layer_types", None)


def _set_rope(config: dict[str, Any], ours: TrtConfig) -> None:
    """Writes the checkpoint's rotation in the form the source's transformers version uses."""
    rope = checkpoint_rope(ours)
    scaling = {"rope_type": rope.kind, **rope.parameters}
    if config.get("rope_parameters"):
        config["rope_parameters"] = {"rope_theta": rope.base, **scaling}
        if rope.partial != 1.0:
            config["rope_parameters"]["partial_rotary_factor"] = rope.partial
        return
    config["rope_theta"] = rope.base
    config["rope_scaling"] = None if rope.kind == "default" else scaling
