"""How a variant's bundle for the PyTorch backend is made."""

from __future__ import annotations

from collections.abc import Mapping

from enginekeeper.building.trtllm_pytorch import TrtllmPytorchBuilder
from enginekeeper.orchestration.stages import Compilation
from enginekeeper.specs.llm_options import LlmOptions
from enginekeeper.specs.recipes import RecipeName
from enginekeeper.specs.variants import Variant
from registry.digests import digest_document

WARM_MINUTES = 240
"""Loading, tuning and compiling a large model takes long; what hangs ends, too."""


def bundle_compilation(variant: Variant, limits: Mapping[str, int]) -> Compilation:
    """Returns what makes a variant's bundle, and what is asked of it."""
    profile, product = variant.profile, variant.target.product
    if profile.release is None or product is None:
        raise AssertionError(f"{variant.identifier} passed the rules without a release or a GPU")
    options = variant.llm_api or LlmOptions()
    return Compilation(
        TrtllmPytorchBuilder(
            profile.release,
            product,
            profile.name,
            options,
            variant.parallel.tensor,
            quantized=variant.recipe.recipe is not RecipeName.NONE,
            simulated=profile.simulated,
        ),
        limits,
        bound={
            "gpu": product.product,
            "llm_api": str(digest_document(options.given, "ek-llm-options-v1")),
            "ranks": str(variant.parallel.tensor),  # the checkpoint is the same for all of them
        },
        minutes=WARM_MINUTES,
    )
