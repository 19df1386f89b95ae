"""All static audits of a checkpoint against its source; no inference, no toolchain."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights


def audit(source_dir: Path, checkpoint_dir: Path) -> tuple[AuditReport, ...]:
    """Audits config and weights; raises InputError for directories that cannot be read at all."""
    source, checkpoint = SourceModel.open(source_dir), Checkpoint.open(checkpoint_dir)
    return audit_config(source, checkpoint), audit_weights(source, checkpoint)
