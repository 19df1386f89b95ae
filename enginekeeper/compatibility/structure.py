"""Arithmetic that has to come out even: groups, heads and shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.facts import Facts, TargetFacts
from enginekeeper.compatibility.rules import Finding, Rule, Severity
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.specs.recipes import RecipeName

if TYPE_CHECKING:
    from enginekeeper.specs.variants import Variant

_SPLIT_BY_COLUMNS = frozenset({"o_proj", "down_proj"})
"""Linears whose inputs tensor parallel divides; the others' outputs are divided."""

W4A8_GROUP = 128

_CHECKED_BY_THE_EXPORTER = frozenset({RecipeName.W4A16, RecipeName.W4A16_AWQ, RecipeName.W4A8_AWQ})
"""Recipes whose export for engines wants whole groups in the columns of every linear over the
ranks, also where ranks divide the rows (ModelOpt 0.47: export/postprocess.py,
check_weight_shape_valid)."""


def _group_divides(variant: Variant, facts: Facts) -> Finding | None:
    group = variant.recipe.group
    if group is None:
        return None
    uneven = [
        f"{name} has {columns} input columns" + (f" on {split} GPUs" if split > 1 else "")
        for name, (_, columns) in facts.model.linears.items()
        if (split := _split(variant, name)) and columns % (group * split)
    ]
    if not uneven:
        return None
    return Finding(
        actual=f"groups of {group}; " + ", ".join(uneven),
        expected="whole groups in each linear, on each GPU",
        remedy=_fitting_groups(variant, facts),
    )


def _split(variant: Variant, linear: str) -> int:
    """Returns over how many GPUs whole groups of a linear's columns are needed."""
    exported = variant.backend == "engine" and variant.recipe.recipe in _CHECKED_BY_THE_EXPORTER
    return variant.parallel.tensor if exported or linear in _SPLIT_BY_COLUMNS else 1


def _fitting_groups(variant: Variant, facts: Facts) -> str:
    if variant.recipe.recipe in {RecipeName.NVFP4, RecipeName.W4A8_AWQ}:
        return f"use another recipe: the group size of {variant.recipe.recipe} is fixed"
    widths = {
        columns // _split(variant, name) for name, (_, columns) in facts.model.linears.items()
    }
    fitting = [size for size in (256, 128, 64, 32, 16) if all(w % size == 0 for w in widths)]
    return f"set group_size: {fitting[0]}" if fitting else "use a recipe without groups"


def _w4a8_group(variant: Variant, _facts: TargetFacts) -> Finding | None:
    group = variant.recipe.group
    if variant.recipe.recipe is not RecipeName.W4A8_AWQ or group == W4A8_GROUP:
        return None
    return Finding(
        actual=f"w4a8_awq in groups of {group}",
        expected=f"groups of {W4A8_GROUP}",
        remedy="leave group_size out, or use w4a16_awq",
    )


def _heads(name: str, heads: int, tensor: int) -> Finding | None:
    if heads % tensor == 0:
        return None
    fitting = [size for size in range(1, heads + 1) if heads % size == 0]
    return Finding(
        actual=f"{heads} {name} heads on {tensor} GPUs: a head would be cut in two",
        expected=f"a tensor parallel size that divides {heads}: {', '.join(map(str, fitting))}",
    )


def _query_heads(variant: Variant, facts: Facts) -> Finding | None:
    return _heads("query", facts.model.num_heads, variant.parallel.tensor)


def _kv_heads(variant: Variant, facts: Facts) -> Finding | None:
    heads, tensor = facts.model.num_kv_heads, variant.parallel.tensor
    repeated = facts.toolchain.builder is BuilderKind.TRTLLM_PYTORCH and tensor % heads == 0
    return None if repeated else _heads("key and value", heads, tensor)


def _intermediate(variant: Variant, facts: Facts) -> Finding | None:
    inner, tensor = facts.model.intermediate_size, variant.parallel.tensor
    if inner % tensor == 0:
        return None
    return Finding(
        actual=f"intermediate size {inner} on {tensor} GPUs",
        expected="a tensor parallel size that divides it",
    )


def _stages(variant: Variant, facts: Facts) -> Finding | None:
    if facts.model.num_layers % variant.parallel.pipeline == 0:
        return None
    return Finding(
        actual=f"{facts.model.num_layers} layers in {variant.parallel.pipeline} stages",
        expected="the same number of layers in each stage",
    )


STRUCTURE_RULES = (
    Rule(
        identifier="group-divides-columns",
        statement="A group of weights lies within one linear, on one GPU.",
        source="measured: ModelOpt 0.47.0 on a 576 column linear with groups of 128 says "
        '"partial blocks are not supported"',
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_group_divides,
    ),
    Rule(
        identifier="w4a8-group-128",
        statement="W4A8 checkpoints have groups of 128.",
        source="tensorrt_llm/quantization/layers.py: NotImplementedError for other sizes",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_w4a8_group,
    ),
    Rule(
        identifier="query-heads-by-tensor-parallel",
        statement="Tensor parallel gives each GPU whole query heads.",
        source="measured: ModelOpt 0.47.0 splits 9 heads in two at row 288, without a warning",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_query_heads,
    ),
    Rule(
        identifier="kv-heads-by-tensor-parallel",
        statement="Tensor parallel gives each GPU whole key and value heads; the PyTorch backend "
        "repeats them where there are fewer than GPUs.",
        source="measured: ModelOpt 0.47.0 splits 3 KV heads in two, without a warning; "
        "tensorrt_llm/_torch/models/modeling_utils.py, duplicate_kv_weight",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_kv_heads,
    ),
    Rule(
        identifier="intermediate-by-tensor-parallel",
        statement="Tensor parallel gives each GPU an equal share of the MLP.",
        source="TensorRT-LLM checkpoint.md (10c1d594): fc and gate are split on dimension 0, "
        "proj on dimension 1",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_intermediate,
    ),
    Rule(
        identifier="pipeline-divides-layers",
        statement="Each pipeline stage holds the same number of layers, and at least one.",
        source="tensorrt_llm/mapping.py, Mapping.pp_layers: each stage gets num_layers // pp_size "
        "layers, and the rest is dropped without a word",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_stages,
    ),
)
