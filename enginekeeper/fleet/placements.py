"""Which engines lie on this node: a record for each directory an engine was written into.

The record says what was put there; `bytes_now` says what is there now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.fleet.node_files import documents_in, write_whole
from registry.digests import Digest, digest_bytes
from registry.errors import IntegrityError, InvalidRecordError
from registry.manifests import Manifest

INTACT, MISSING, CHANGED = "verified", "MISSING", "CHANGED"
UNVERIFIABLE = "UNVERIFIABLE"


@dataclass(frozen=True)
class Placement:
    """An engine that was written to a directory of this node."""

    engine: Digest
    path: Path
    placed_at: datetime
    record: Path
    """The file that says so; without it nobody expects the engine here."""
    key: Digest | None = None
    """Of the engine's key; None in a record of an older version."""
    simulated: bool = False


def record_placement(
    home: Path, engine: Digest, path: Path, *, key: Digest | None = None, simulated: bool = False
) -> None:
    """Records that an engine was written to a directory; the newest record of a path counts.

    With its key the node can tell whether the bytes are the engine's without asking a registry.
    """
    path = path.resolve()
    document = {
        "engine": str(engine),
        "path": str(path),
        "placed_at": datetime.now(UTC).isoformat(),
        "key": None if key is None else str(key),
        "simulated": simulated,
    }
    name = digest_bytes(str(path).encode()).short
    write_whole(home / "placements" / f"{name}.json", json.dumps(document, indent=2))


def forget_placement(home: Path, path: Path) -> bool:
    """Removes the record of a directory and says whether there was one."""
    record = home / "placements" / f"{digest_bytes(str(path.resolve()).encode()).short}.json"
    found = record.exists()
    record.unlink(missing_ok=True)
    return found


def placements(home: Path) -> Iterator[Placement]:
    """Yields every recorded placement, by the names of their records.

    Raises InputError for a record that is none, and where they cannot be listed.
    """
    for file in documents_in(home / "placements"):
        try:
            document = read_json_object(file)
            key = document.get("key")
            placement = Placement(
                Digest.parse(document["engine"]),
                Path(document["path"]),
                datetime.fromisoformat(document["placed_at"]),
                file,
                None if key is None else Digest.parse(key),
                document.get("simulated") is True,
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


Hashed = Callable[[Path], tuple[int, Digest]]
"""Returns size and digest of a file."""


def bytes_now(
    placement: Placement, *, key: Digest | None, simulated: bool, hashed: Hashed | None = None
) -> str:
    """Says in a word whether the engine's own bytes are where they were put.

    Key and kind are part of what the engine's digest covers, so a wrong one makes no other
    engine pass. Without a key nothing can be told.
    """
    try:
        if not placement.path.is_dir():
            return MISSING
        if key is None:
            return UNVERIFIABLE
        found = Manifest.of_directory(
            placement.path, "engine", key=key, simulated=simulated, hashed=hashed
        )
    except (IntegrityError, InvalidRecordError) as error:
        return f"UNREADABLE: {error.what}"
    except OSError as error:
        return f"UNREADABLE: {error.strerror}"
    return INTACT if found.digest == placement.engine else CHANGED
