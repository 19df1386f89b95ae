"""Which number formats which GPUs compute: one row for each thing a GPU or a builder refuses.

These rows are about hardware arithmetic. On the CPU every format is emulated, so none applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginekeeper.compatibility.facts import TargetFacts
from enginekeeper.compatibility.rules import Finding, Rule, Severity
from enginekeeper.specs.gpus import ComputeCapability
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.specs.recipes import RecipeName

if TYPE_CHECKING:
    from collections.abc import Callable

    from enginekeeper.specs.variants import Variant

_MATRIX = "TensorRT-LLM docs/source/features/quantization.md (09d4c79b), hardware support matrix"
_BUILDER = (
    "tensorrt_llm/builder.py (008b2b8d): hard error when 100 <= SM < 120, in the words "
    '"{words} is not supported on SM>=100."'
)


@dataclass(frozen=True, kw_only=True)
class FormatRow:
    """Recipes that do not work on compute capabilities for which `refused` is true."""

    identifier: str
    statement: str
    source: str
    recipes: frozenset[RecipeName]
    refused: Callable[[ComputeCapability], bool]
    expected: str
    """The compute capabilities on which these recipes work."""

    builder: BuilderKind | None = None
    """The builder the row is about; None if about the hardware."""

    severity: Severity = Severity.REFUSE

    def hits(self, recipe: RecipeName, builder: BuilderKind, capability: ComputeCapability) -> bool:
        """Says whether the row speaks against a recipe."""
        concerned = recipe in self.recipes and self.builder in {None, builder}
        return concerned and self.refused(capability)


def _below(major: int, minor: int) -> Callable[[ComputeCapability], bool]:
    return lambda capability: capability < ComputeCapability(major, minor)


def _of_generations(first: int, last: int) -> Callable[[ComputeCapability], bool]:
    return lambda capability: first <= capability.major <= last


_ADA_AND_HOPPER = frozenset({ComputeCapability(8, 9), ComputeCapability(9, 0)})

ROWS = (
    FormatRow(
        identifier="fp8-needs-8.9",
        statement="FP8 arithmetic needs compute capability 8.9 or newer.",
        source=f"{_MATRIX}; support matrix of 0.18.2: no FP8 on SM80 and SM86",
        recipes=frozenset({RecipeName.FP8, RecipeName.FP8_PER_CHANNEL_PER_TOKEN}),
        refused=_below(8, 9),
        expected="8.9 or newer (Ada, Hopper, Blackwell)",
    ),
    FormatRow(
        identifier="nvfp4-needs-10.0",
        statement="NVFP4 arithmetic needs compute capability 10.0 or newer.",
        source=_MATRIX,
        recipes=frozenset({RecipeName.NVFP4}),
        refused=_below(10, 0),
        expected="10.0 or newer (Blackwell)",
    ),
    FormatRow(
        identifier="w4a8-needs-8.9-or-9.0",
        statement="W4A8 kernels exist for compute capability 8.9 and 9.0 only.",
        source=_MATRIX,
        recipes=frozenset({RecipeName.W4A8_AWQ}),
        refused=lambda capability: capability not in _ADA_AND_HOPPER,
        expected="8.9 or 9.0 (Ada, Hopper)",
    ),
    FormatRow(
        identifier="fp8-rowwise-not-on-12.x",
        statement="Row-wise FP8 has no kernels for compute capability 12.x.",
        source=_MATRIX,
        recipes=frozenset({RecipeName.FP8_PER_CHANNEL_PER_TOKEN}),
        refused=_of_generations(12, 12),
        expected="8.9 or 9.0 (Ada, Hopper)",
    ),
    FormatRow(
        identifier="int4-doubted-on-12.x",
        statement="INT4 weights are not in TensorRT-LLM's support matrix for 12.x, though its "
        "builder does not refuse them.",
        source=_MATRIX,
        recipes=frozenset({RecipeName.W4A16, RecipeName.W4A16_AWQ}),
        refused=_of_generations(12, 12),
        expected="8.0 to 9.0",
        severity=Severity.WARN,
    ),
    FormatRow(
        identifier="int-weights-not-on-10.x",
        statement="trtllm-build refuses INT8 and INT4 weights on 10.0 to 11.9.",
        source=_BUILDER.format(words="INT8/INT4 quantization"),
        recipes=frozenset(
            {RecipeName.W8A16, RecipeName.W4A16, RecipeName.W4A16_AWQ, RecipeName.W4A8_AWQ}
        ),
        refused=_of_generations(10, 11),
        expected="up to 9.0, or 12.x; on this GPU use fp8 or nvfp4",
        builder=BuilderKind.TENSORRT_LLM,
    ),
    FormatRow(
        identifier="smoothquant-not-on-10.x",
        statement="trtllm-build refuses SmoothQuant on 10.0 to 11.9.",
        source=_BUILDER.format(words="SmoothQuant"),
        recipes=frozenset({RecipeName.W8A8_SQ}),
        refused=_of_generations(10, 11),
        expected="up to 9.0, or 12.x; on this GPU use fp8 or nvfp4",
        builder=BuilderKind.TENSORRT_LLM,
    ),
    FormatRow(
        identifier="fp8-per-channel-not-on-10.x",
        statement="trtllm-build refuses per-channel, per-token FP8 on 10.0 to 11.9.",
        source=_BUILDER.format(words="Per-channel or per-token scaling"),
        recipes=frozenset({RecipeName.FP8_PER_CHANNEL_PER_TOKEN}),
        refused=_of_generations(10, 11),
        expected="8.9 or 9.0; on this GPU use fp8 or nvfp4",
        builder=BuilderKind.TENSORRT_LLM,
    ),
)


def _rule(row: FormatRow) -> Rule[TargetFacts]:
    def predicate(variant: Variant, facts: TargetFacts) -> Finding | None:
        gpu = facts.gpu
        recipe, builder = variant.recipe.recipe, facts.toolchain.builder
        if gpu is None or not row.hits(recipe, builder, gpu.compute_capability):
            return None
        return Finding(
            actual=f"{variant.recipe.recipe} on {gpu.name}, {gpu.compute_capability}",
            expected=f"compute capability {row.expected}",
        )

    return Rule(
        identifier=row.identifier,
        statement=row.statement,
        source=row.source,
        severity=row.severity,
        needs=TargetFacts,
        predicate=predicate,
    )


FORMAT_RULES = tuple(_rule(row) for row in ROWS)
