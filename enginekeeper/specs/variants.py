"""Variants: one combination of a spec's lists, with everything needed to build and judge it.

A variant's identifier is its name everywhere: in plans, logs, folders and selectors.

Example:
    `smollm2-135m.w8a16-kvfp8.tp2-pp2.h100-sxm.unrepaired`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NewType

from enginekeeper.specs.profiles import BuilderKind, ToolchainProfile, profile_of

if TYPE_CHECKING:
    from enginekeeper.specs.acceptance import Acceptance, Origins
    from enginekeeper.specs.build_options import Build
    from enginekeeper.specs.fallback import Fallback
    from enginekeeper.specs.llm_api import Backend
    from enginekeeper.specs.llm_options import LlmOptions
    from enginekeeper.specs.model import Calibration, Limits, Parallel, Reference
    from enginekeeper.specs.recipes import Recipe
    from enginekeeper.specs.source import ModelSource
    from enginekeeper.specs.targets import Target

VariantId = NewType("VariantId", str)
"""`model.recipe.parallel.target`, with `.unrepaired` if known defects are left in."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One engine that should exist, and what it is judged by."""

    model: ModelSource
    target: Target
    recipe: Recipe
    parallel: Parallel
    calibration: Calibration
    limits: Limits
    toolchain: str
    build: Build
    """Options of `trtllm-build` beyond the limits."""

    acceptance: Acceptance
    """What the spec says, and what the recipe's own defaults are where it says nothing."""

    suite: str
    reference: Reference
    limits_from: Origins = field(default_factory=dict)
    """Where each limit came from, in words."""
    backend: Backend = "engine"
    llm_api: LlmOptions | None = None
    """Options of a bundle for the PyTorch backend; None: the release's own."""
    fallback: Fallback = "none"
    stands_for: VariantId | None = None
    """The variant whose engines nothing builds and that this one serves meanwhile."""

    @property
    def identifier(self) -> VariantId:
        """The variant's name, unique within a spec; what stands in for a variant has its name."""
        if self.stands_for is not None:
            return self.stands_for
        parts = [self.model.name, self.recipe.part, self.parallel.part, self.target.part]
        if self.recipe.repair == "off":
            parts.append("unrepaired")
        return VariantId(".".join(parts))

    @property
    def profile(self) -> ToolchainProfile:
        """What the variant's toolchain needs and can do, by the backend it is asked for."""
        profile = profile_of(self.toolchain)
        return profile.for_pytorch() if self.backend == "pytorch" else profile

    @property
    def is_vllm_bundle(self) -> bool:
        """Whether it is a vLLM serving bundle and no engine."""
        return self.profile.maker is BuilderKind.VLLM

    def as_dict(self) -> dict[str, Any]:
        """Returns the variant as JSON values, identifier included."""
        return {
            "identifier": self.identifier,
            **asdict(self),
            "build": self.build.given,
            "llm_api": None if self.llm_api is None else self.llm_api.given,
        }
