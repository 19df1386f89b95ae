"""How a vLLM serving bundle is told from an engine wherever one is shown."""

from __future__ import annotations

BUNDLE = "vLLM serving bundle, no engine"


def bundle_mark(*, bundle: bool) -> str | None:
    """Returns what stands in a table's column; None for an engine."""
    return "vLLM bundle" if bundle else None


def variant_of(variant: str, recipe: str) -> str:
    """Returns a variant's name for a table, marked where a bundle stands in for its engine."""
    from enginekeeper.configs.vllm_bundle import RECIPE

    return f"{variant} (vLLM bundle)" if recipe == RECIPE else variant
