"""The fallback of a spec: what serves a model whose engines nothing builds.

What stands in for a variant is served by vLLM as the model is: no recipe is applied to it. It goes
by the variant's name, so that an engine takes its place in a channel as soon as one can be built.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from enginekeeper.specs.profiles import VLLM_TOOLCHAINS
from enginekeeper.specs.recipes import Recipe, RecipeName
from enginekeeper.specs.support import support_of

if TYPE_CHECKING:
    from enginekeeper.specs.variants import Variant

Fallback = Literal["none", "vllm"]


def served_by_vllm_alone(architecture: str) -> bool:
    """Says whether vLLM serves an architecture, as text, and no list of TensorRT-LLM has it."""
    return support_of(architecture).can_fall_back


def stand_in(variant: Variant) -> Variant:
    """Returns what serves a variant's model meanwhile: the same place, vLLM, and no recipe."""
    kind = "cpu" if variant.target.product is None else "gpu"
    return replace(
        variant,
        toolchain=VLLM_TOOLCHAINS[kind],
        backend="engine",
        llm_api=None,
        recipe=Recipe(recipe=RecipeName.NONE),
        stands_for=variant.identifier,
    )
