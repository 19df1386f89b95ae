"""Repairs of faults an exporter is known to make: derived from the source, recorded, in a copy.

Rules:

- a repair is proposed only when the source model *states* the value and the checkpoint's own
  files bear it out; where the source is silent or contradicts itself nothing is proposed, and
  the config audit goes on failing;
- a checkpoint is never changed in place: the repaired one appears whole, or not at all;
- tensors are never touched;
- what was changed is written to `repairs.json` beside `config.json`, and the record travels with
  the checkpoint into its digest.

Which fault each rule is for, and where TensorRT-LLM reads the field, is in docs/quantization.md.

Example:
    repairs = propose_repairs(source_config, checkpoint)
    if repairs:
        apply_repairs(checkpoint, output, repairs)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.repair_rules import RULES, Evidence, Repair
from enginekeeper.validation.tensor_files import TensorFile
from registry.digests import digest_file
from registry.disks import full_disk_said

__all__ = ["RECORD", "Repair", "UnrepairableCheckpointError", "apply_repairs", "propose_repairs"]

RECORD = "repairs.json"
SCHEMA = 1
_CONFIG = "config.json"


class UnrepairableCheckpointError(InputError):
    """A checkpoint is not in the state a repair was proposed for, or cannot be copied."""


@dataclass(frozen=True)
class _Edit:
    """A config after repairs, and the record of them."""

    config: Mapping[str, Any]
    record: Mapping[str, Any]


def propose_repairs(source_config: Mapping[str, Any], checkpoint_dir: Path) -> tuple[Repair, ...]:
    """Returns every repair the source's config and the checkpoint's tensors prove, in rule order.

    `source_config` is the Hugging Face `config.json` as written by transformers 4 or 5.
    """
    config = read_json_object(checkpoint_dir / _CONFIG)
    names: set[str] = set()
    for path in sorted(checkpoint_dir.glob("rank*.safetensors")):
        names.update(TensorFile.open(path))
    if not names:
        raise UnrepairableCheckpointError("there are no tensors", where=str(checkpoint_dir))
    text_config = source_config.get("text_config")
    source = text_config if isinstance(text_config, Mapping) else source_config
    evidence = Evidence(source, config, frozenset(names))
    return tuple(repair for rule in RULES if (repair := rule(evidence)) is not None)


def apply_repairs(checkpoint_dir: Path, output_dir: Path, repairs: Sequence[Repair]) -> None:
    """Writes a repaired copy; raises UnrepairableCheckpointError and leaves nothing behind.

    Files other than the config are hard links where the file system allows it: both directories
    are to be treated as read-only afterwards, as everything content-addressed is.
    """
    if output_dir.exists():
        raise UnrepairableCheckpointError(
            "the output exists; a checkpoint is never repaired in place", where=str(output_dir)
        )
    edit = _edit(checkpoint_dir, repairs)
    try:
        with full_disk_said():
            output_dir.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    except OSError as error:
        raise _unwritable(output_dir, error) from error
    try:
        with full_disk_said(output_dir):
            _copy_files(checkpoint_dir, partial)
            _write_json(partial / _CONFIG, edit.config)
            _write_json(partial / RECORD, edit.record)
            # mkdtemp makes it private; a published checkpoint is as readable as its parent.
            partial.chmod(0o755)
            partial.rename(output_dir)
    except OSError as error:
        raise _unwritable(output_dir, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(output_dir: Path, error: OSError) -> UnrepairableCheckpointError:
    return UnrepairableCheckpointError(
        "the repaired copy cannot be written",
        where=str(error.filename or output_dir),
        actual=error.strerror,
        remedy="Free space or name another output directory.",
    )


def _edit(checkpoint_dir: Path, repairs: Sequence[Repair]) -> _Edit:
    if not repairs:
        raise UnrepairableCheckpointError("there is nothing to repair", where=str(checkpoint_dir))
    config = read_json_object(checkpoint_dir / _CONFIG)
    for repair in repairs:
        _replace(config, repair, checkpoint_dir)
    earlier: list[Any] = []
    if (checkpoint_dir / RECORD).is_file():
        earlier = list(read_json_object(checkpoint_dir / RECORD).get("repairs", []))
    record = {
        "schema": SCHEMA,
        "config_before": str(digest_file(checkpoint_dir / _CONFIG)),
        "repairs": [*earlier, *(asdict(repair) for repair in repairs)],
    }
    return _Edit(config, record)


def _replace(config: dict[str, Any], repair: Repair, checkpoint_dir: Path) -> None:
    """Sets one field, after making sure that it is what it was when the repair was proposed."""
    *parents, name = repair.path
    block: Any = config
    for parent in parents:
        block = block.get(parent) if isinstance(block, dict) else None
    if not isinstance(block, dict) or block.get(name) != repair.was:
        raise UnrepairableCheckpointError(
            "the config has changed since the repair was proposed",
            where=f"{checkpoint_dir}: {repair.field}",
            actual=block.get(name) if isinstance(block, dict) else None,
            expected=repair.was,
            remedy="Propose the repairs again.",
        )
    block[name] = repair.now


def _copy_files(checkpoint_dir: Path, partial: Path) -> None:
    for path in sorted(checkpoint_dir.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise UnrepairableCheckpointError(
                "a checkpoint holds plain files only", where=str(path)
            )
        if path.name in (_CONFIG, RECORD):
            continue
        try:
            os.link(path, partial / path.name)
        except OSError:
            # Another file system, or one without hard links: the bytes are the same either way.
            shutil.copyfile(path, partial / path.name)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes as ModelOpt does (indented by 4, its order kept), so that a diff shows the repair."""
    with path.open("w", encoding="utf-8") as handle:
        json.dump(document, handle, indent=4, allow_nan=False)
        handle.flush()
        os.fsync(handle.fileno())
