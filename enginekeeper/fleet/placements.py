"""Which engines lie on this node: a record for each directory an engine was written into.

The record says what was put there; `verify` says what is there now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from registry.digests import Digest, digest_bytes
from registry.errors import InvalidRecordError


@dataclass(frozen=True)
class Placement:
    """An engine that was written to a directory of this node."""

    engine: Digest
    path: Path
    placed_at: datetime
    record: Path
    """The file that says so; without it nobody expects the engine here."""


def record_placement(home: Path, engine: Digest, path: Path) -> None:
    """Records that an engine was written to a directory; the newest record of a path counts."""
    path = path.resolve()
    folder = home / "placements"
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "engine": str(engine),
        "path": str(path),
        "placed_at": datetime.now(UTC).isoformat(),
    }
    name = digest_bytes(str(path).encode()).short
    draft = folder / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps(document, indent=2), encoding="utf-8")
    draft.replace(folder / f"{name}.json")


def forget_placement(home: Path, path: Path) -> bool:
    """Removes the record of a directory and says whether there was one."""
    record = home / "placements" / f"{digest_bytes(str(path.resolve()).encode()).short}.json"
    found = record.exists()
    record.unlink(missing_ok=True)
    return found


def placements(home: Path) -> Iterator[Placement]:
    """Yields every recorded placement, by the names of their records."""
    for file in sorted((home / "placements").glob("*.json")):
        try:
            document = read_json_object(file)
            placement = Placement(
                Digest.parse(document["engine"]),
                Path(document["path"]),
                datetime.fromisoformat(document["placed_at"]),
                file,
            )
        except (
            InputError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            InvalidRecordError,
        ) as error:
            raise InputError(
                f"the placement record cannot be read: {error}",
                where=str(file),
                remedy="remove the file and fetch the engine again",
            ) from error
        yield placement
