"""All static audits of a checkpoint against its source; no inference, no toolchain."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.specs.recipes import Recipe
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.numerics.mapping import Geometry
from enginekeeper.validation.numerics.working_memory import keep_freed_memory
from enginekeeper.validation.recipe_audit import audit_recipe
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights


def audit(
    source_dir: Path, checkpoint_dir: Path, recipe: Recipe | None = None
) -> tuple[AuditReport, ...]:
    """Audits config and weights, and the recipe if it is known which one was asked for.

    Raises InputError for directories that cannot be read at all.
    """
    keep_freed_memory()
    source, checkpoint = SourceModel.open(source_dir), Checkpoint.open(checkpoint_dir)
    reports = audit_config(source, checkpoint), audit_weights(source, checkpoint)
    if recipe is None:
        return reports
    return (*reports, audit_recipe(checkpoint, Geometry.of(source.config), recipe))
