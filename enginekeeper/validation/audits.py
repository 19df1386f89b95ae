"""All static audits of a checkpoint against its source; no inference, no toolchain."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import audit_weights


def audit(source_dir: Path, checkpoint_dir: Path) -> tuple[AuditReport, ...]:
    """Audits config and weights; raises InputError for directories that cannot be read at all."""
    source, checkpoint = SourceModel.open(source_dir), Checkpoint.open(checkpoint_dir)
    try:
        config = audit_config(source, checkpoint)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        # A config may hold anything; a field of the wrong kind is the file's fault, not ours.
        raise InputError(
            f"a field of one of the two configs is not of the kind it should be: {error}",
            where=f"{source_dir / 'config.json'}, {checkpoint_dir / 'config.json'}",
            remedy="compare both files with what their exporter writes",
        ) from error
    return config, audit_weights(source, checkpoint)
