"""Which recipes a release can build on which GPUs: the format rules, asked for every combination.

It is computed from the rules that plans go by, so that what is shown is what is decided.
"""

from __future__ import annotations

from enginekeeper.compatibility.formats import ROWS
from enginekeeper.compatibility.rules import Severity
from enginekeeper.specs.profiles import ToolchainProfile
from enginekeeper.specs.recipes import RecipeName


def recipes_by_capability(profile: ToolchainProfile) -> dict[str, list[str]]:
    """Returns, by a release's compute capabilities, the recipes that no format rule refuses."""
    return {
        str(capability): [
            str(recipe)
            for recipe in RecipeName
            if not any(
                row.severity is Severity.REFUSE and row.hits(recipe, profile.builder, capability)
                for row in ROWS
            )
        ]
        for capability in sorted(profile.compute_capabilities)
    }
