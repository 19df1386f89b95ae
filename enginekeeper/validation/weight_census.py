"""Which tensors are there, missing or left over, and whether linears are as they are announced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.findings import Finding, Result
from enginekeeper.validation.numerics.formats import E4M3_MAX, INT4_MAX, Floats
from enginekeeper.validation.numerics.linears import SUFFIXES, StoredLinear
from enginekeeper.validation.numerics.mapping import (
    EMBEDDING,
    Geometry,
    biases,
    layer_linears,
    norms,
)
from enginekeeper.validation.numerics.recipes import (
    CALIBRATED,
    LinearRecipe,
    WeightFormat,
    code_range,
)
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.source_model import SourceModel

KV_SUFFIXES = ("k_cache_scaling_factor", "v_cache_scaling_factor", "kv_cache_scaling_factor")

_DERIVED = ("rotary_emb.inv_freq",)
"""What older files hold and the config gives anyway."""

_LISTED = 5
"""Names spelled out in a finding before "and n more"."""

_ROUNDING = 2.0**-8
"""Relative; of scales in half precision."""

_UNUSED = 16
"""How far below FP8's largest number the largest weight may be; quiet groups are below it."""


def census(checkpoint: Checkpoint, geometry: Geometry, source: SourceModel) -> Iterator[Finding]:
    """Yields a finding for tensors that are missing and one for tensors nobody knows."""
    present = set(checkpoint.names())
    required = {"transformer.vocab_embedding.weight"}
    if not checkpoint.config.share_embedding_table:
        required.add("lm_head.weight")
    for place in norms(geometry):
        if all(name in source for name in place.sources):
            required.add(place.name)
    known = required | _known(geometry)
    for name in sorted(required - present):
        yield Finding(
            check="weights.census",
            result="fail",
            where=name,
            message="the tensor is missing",
            actual="absent",
            expected="present, as in the source model",
            taxonomy="T26",
        )
    extra = sorted(present - known)
    if extra:
        in_a_layer = any(".layers." in name for name in extra)
        message = "the checkpoint holds tensors that the source model has no counterpart for"
        yield _too_many(extra, "fail" if in_a_layer else "inconclusive", message)


def unread(geometry: Geometry, source: SourceModel) -> Iterator[Finding]:
    """Yields doubt for tensors of the source that no audit reads: there may be more to the model.

    Such a model is not the decoder that its config names, or not that alone.
    """
    known = {f"{EMBEDDING}.weight", "lm_head.weight"}
    for vector in (*norms(geometry), *biases(geometry)):
        known.update(vector.sources)
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            known.update(f"{part.module}.weight" for part in place.parts)
    names = sorted(n for n in source.tensors.keys() - known if not n.endswith(_DERIVED))
    if names:
        message = "the source holds tensors that this audit does not know"
        yield _too_many(names, "inconclusive", message)


def _too_many(names: list[str], result: Result, message: str) -> Finding:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return Finding(
        check="weights.census",
        result=result,
        where=names[0],
        message=f"{message}: {', '.join(names[:_LISTED])}{more}",
        actual=len(names),
        expected=0,
        taxonomy="T26",
    )


def recipe_findings(stored: AssembledLinear, recipe: LinearRecipe) -> Iterator[Finding]:
    """Yields findings where a linear has not the format, groups and scales that its recipe gives.

    Those of another format, or for groups of another size, are not looked at any further.
    """
    if stored.first.format is not recipe.format:
        yield _wrong_format(stored, recipe)
    elif stored.grouped and stored.first.group != recipe.group_size:
        yield _wrong_groups(stored, recipe)
    else:
        yield from _scales(stored, recipe)
        yield from _unused(stored)


def _unused(stored: AssembledLinear) -> Iterator[Finding]:
    """Yields doubt for tensors that the format has no use for: some loader may take them."""
    names = sorted({name for shard in stored.shards for name in shard.unused})
    if names:
        yield Finding(
            "weights.census",
            "inconclusive",
            f"{stored.place.name}.{names[0]}",
            f"a linear of format {stored.first.format.value} has no use for it",
            ", ".join(names),
            "absent",
            "T3",
        )


def _wrong_format(stored: AssembledLinear, recipe: LinearRecipe) -> Finding:
    return Finding(
        check="weights.format",
        result="fail",
        where=f"{stored.place.name}.weight",
        message="the weight is not in the format the quantization block gives this module",
        actual=stored.first.format.value,
        expected=recipe.format.value,
        taxonomy="T8",
    )


def _wrong_groups(stored: AssembledLinear, recipe: LinearRecipe) -> Finding:
    return Finding(
        check="weights.layout",
        result="fail",
        where=f"{stored.place.name}.weights_scaling_factor",
        message="the scales are for groups of another size than the quantization block says",
        actual=stored.first.group,
        expected=recipe.group_size,
        taxonomy="T3",
    )


def _scales(stored: AssembledLinear, recipe: LinearRecipe) -> Iterator[Finding]:
    """Yields findings for scales that are not finite and positive, or not there at all."""
    name = stored.place.name
    scales = np.concatenate([_scales_in_use(shard) for shard in stored.shards])
    yield from _numbers(f"{name} scales", scales, "T2")
    if stored.prequant is not None:
        yield from _numbers(f"{name}.prequant_scaling_factor", stored.prequant, "T9")
    if recipe.activation in CALIBRATED:
        yield from _activation(stored, name)
    if recipe.format is WeightFormat.INT4_GROUP and recipe.activation == "fp8_static":
        yield from _second_scale(stored, name)
    if recipe.activation == "int8_static" and stored.prequant is None:
        yield Finding(
            "weights.scale",
            "fail",
            f"{name}.prequant_scaling_factor",
            "SmoothQuant without its smoothing vector",
            "absent",
            "present",
            "T9",
        )


def _scales_in_use(shard: StoredLinear) -> Floats:
    """Returns the scales, 1 for one of zero whose codes are zeros: any is as good."""
    none = shard.scales == 0
    if shard.format is WeightFormat.PLAIN or not none.any() or len(none) != shard.rows:
        return shard.scales
    scales = shard.scales.copy()
    for start, stop in row_chunks(shard.rows, shard.columns):
        if none[start:stop].any():
            codes = shard.codes(start, stop).reshape(stop - start, none.shape[1], -1)
            scales[start:stop][none[start:stop] & ~codes.any(axis=2)] = 1
    return scales


def _second_scale(stored: AssembledLinear, name: str) -> Iterator[Finding]:
    """Yields what is wrong with the scale that turns INT4 weights into FP8 ones (W4A8_AWQ).

    TensorRT-LLM divides the groups' scales by it; the largest weight has to stay within FP8.
    """
    where = f"{name}.weights_scaling_factor_2"
    found = {shard.second_scale for shard in stored.shards}
    if None in found:
        message = "W4A8_AWQ without the scale that turns its weights into FP8"
        yield Finding("weights.scale", "fail", where, message, "absent", "present", "T2")
        return
    second = np.array([s.second_scale for s in stored.shards], np.float32)
    yield from _numbers(where, second, "T2")
    if len(found) > 1 and np.isfinite(second).all():
        message = "the tensor-parallel ranks disagree on the second scale"
        yield Finding("weights.scale", "fail", where, message, second.tolist(), "one value", "T14")


def beyond_fp8(stored: AssembledLinear) -> Iterator[Finding]:
    """Yields a finding where a second scale makes more of the right INT4 weights than FP8 holds."""
    second = stored.first.second_scale
    if second is None or stored.first.activation is None:
        return
    largest = max(float(shard.scales.max()) for shard in stored.shards) * INT4_MAX
    most = second * E4M3_MAX
    if not largest <= most * (1 + _ROUNDING):  # perhaps the scale of a group of zeros
        largest = max(_largest(shard) for shard in stored.shards)
    if not most / _UNUSED <= largest <= most * (1 + _ROUNDING):
        yield Finding(
            "weights.scale",
            "fail",
            f"{stored.place.name}.weights_scaling_factor_2",
            f"the largest weight is {largest / second:.4g} in FP8, which ends at {E4M3_MAX:g}",
            second,
            largest / E4M3_MAX,
            "T2",
        )


def beyond_half(stored: AssembledLinear, recipe: LinearRecipe, dtype: str) -> Iterator[Finding]:
    """Yields a finding where right weights are more than float16 holds, in which they are used.

    Only of what multiplies activations in the checkpoint's dtype: weight-only recipes.
    """
    limit = float(np.finfo(np.float16).max)
    integers = recipe.format in (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL)
    if dtype != "float16" or not integers or recipe.activation is not None:
        return
    most = max(float(shard.scales.max()) for shard in stored.shards) * -code_range(recipe.format)[0]
    if most <= limit:
        return
    largest = max(_largest(shard) for shard in stored.shards)
    if largest > limit:
        message = f"a weight is {largest:.6g}, which float16 does not hold"
        where = f"{stored.place.name}.weight"
        yield Finding("weights.finite", "fail", where, message, largest, f"<= {limit:g}", "T20")


def _largest(shard: StoredLinear) -> float:
    """Returns the largest weight: its scale may be smaller than that of weights that are zero."""
    chunks = row_chunks(shard.rows, shard.columns)
    return max(float(np.abs(shard.dequantize(*rows)).max()) for rows in chunks)


def _activation(stored: AssembledLinear, name: str) -> Iterator[Finding]:
    where = f"{name}.activation_scaling_factor"
    scales = [s.activation.scale for s in stored.shards if s.activation is not None]
    numbers = np.array([scale for scale in scales if scale is not None], dtype=np.float32)
    if len(numbers) != len(stored.shards):
        yield Finding(
            "weights.scale",
            "fail",
            where,
            "the recipe quantizes activations with a calibrated scale, which is missing",
            "absent",
            "present",
            "T13",
        )
        return
    yield from _numbers(where, numbers, "T13")
    if not np.array_equal(numbers, np.full_like(numbers, numbers[0]), equal_nan=True):
        yield Finding(
            "weights.scale",
            "fail",
            where,
            "the tensor-parallel ranks disagree on the activation scale",
            [float(number) for number in numbers],
            "one value",
            "T14",
        )


def _numbers(where: str, values: Floats, taxonomy: str) -> Iterator[Finding]:
    bad = ~(np.isfinite(values) & (values > 0))
    if not bad.any():
        return
    example = float(values[bad][0])
    yield Finding(
        check="weights.scale",
        result="fail",
        where=where,
        message=f"{int(bad.sum())} of {values.size} scales are not finite and positive",
        actual=example,
        expected="> 0",
        taxonomy=taxonomy,
    )


def _known(geometry: Geometry) -> set[str]:
    """Every name a tensor of this architecture may have, biases only where `biases` lists them."""
    names = {f"lm_head.{suffix}" for suffix in SUFFIXES}
    names.update(place.name for place in norms(geometry))
    names.update(place.name for place in biases(geometry))
    for layer in range(geometry.layers):
        for place in layer_linears(layer, geometry):
            names.update(f"{place.name}.{suffix}" for suffix in SUFFIXES)
        attention = f"transformer.layers.{layer}.attention"
        names.update(f"{attention}.{suffix}" for suffix in KV_SUFFIXES)
    return names
