"""A step's product that is JSON: whole, or not there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_document(output: Path, document: Mapping[str, Any]) -> None:
    """Writes a document beside its place and renames it."""
    partial = output.with_name(output.name + ".partial")
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.replace(output)
