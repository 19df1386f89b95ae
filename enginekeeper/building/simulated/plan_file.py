"""A plan of the double: the header of a plan, where it was built, and the weights of its rank.

0   tag `ftrt`, version at 24 to 27, as sampleEngines.cpp of NVIDIA/TensorRT reads them
28  `SIMULATED: no kernels` and a line feed
50  length of a JSON object (8 bytes, little-endian), the object: see `PlanNote`
…   the rank's file of tensors as it is in the checkpoint; nothing in a stripped plan
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

_TAG = b"ftrt"
_BLANK = 20
_MARK = b"SIMULATED: no kernels\n"
_LENGTH = 8
_LONGEST_NOTE = _LONGEST_HEADER = 64 << 20
"""Names of a model with a thousand layers take a megabyte."""

_PIECE = 1 << 20
_NOTE_AT = len(_TAG) + _BLANK + 4 + len(_MARK)

Version = tuple[int, int, int, int]


class NoSimulatedPlanError(ValueError):
    """A file is no plan that the double wrote, or not whole."""


@dataclass(frozen=True)
class PlanNote:
    """What a plan of the double says of itself."""

    device: str
    """Product of the GPU it was built on."""

    compute_capability: str
    weights: str
    """SHA-256 of the rank's file of tensors."""

    names: tuple[str, ...]
    """The tensors in it: what a refit has to bring."""

    stripped: bool
    """Whether the weights were left out; `trtllm-refit` puts them back."""


@dataclass(frozen=True)
class Plan:
    """A plan that was read: its note, its version, and where its weights begin."""

    path: Path
    version: Version
    note: PlanNote
    offset: int

    def write_weights(self, place: Path) -> None:
        """Writes the weights to a file; raises NoSimulatedPlanError unless they are those noted."""
        with self.path.open("rb") as source, place.open("wb") as target:
            source.seek(self.offset)
            found = _copy(source, target)
        if found != self.note.weights:
            raise NoSimulatedPlanError(f"{self.path}: the weights are not those it was built from")


def write_plan(place: Path, version: Version, note: PlanNote, weights: Path) -> None:
    """Writes a plan; its note says whether it is stripped."""
    said = json.dumps(asdict(note), sort_keys=True).encode()
    with place.open("wb") as target:
        target.write(_TAG + bytes(_BLANK) + bytes(version) + _MARK)
        target.write(len(said).to_bytes(_LENGTH, "little") + said)
        if not note.stripped:
            with weights.open("rb") as source:
                _copy(source, target)


def read_plan(path: Path) -> Plan:
    """Reads a plan's header and note; raises NoSimulatedPlanError for any other file."""
    with path.open("rb") as file:
        head = file.read(_NOTE_AT + _LENGTH)
        length = int.from_bytes(head[_NOTE_AT:], "little")
        marked = head[:4] == _TAG and head[_NOTE_AT - len(_MARK) : _NOTE_AT] == _MARK
        if not marked or len(head) < _NOTE_AT + _LENGTH or length > _LONGEST_NOTE:
            raise NoSimulatedPlanError(f"{path}: not a plan of the double")
        said = file.read(length)
    try:
        fields = json.loads(said)
        note = PlanNote(**{**fields, "names": tuple(fields["names"])})
    except (ValueError, TypeError, KeyError) as error:
        raise NoSimulatedPlanError(f"{path}: its note cannot be read: {error}") from error
    major, minor, patch, build = head[24:28]
    return Plan(path, (major, minor, patch, build), note, _NOTE_AT + _LENGTH + length)


def tensor_names(path: Path) -> tuple[str, ...]:
    """Returns the names in a file of tensors, sorted; none where the file is empty."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = file.read(length) if 0 < length <= _LONGEST_HEADER else b"{}"
    names: dict[str, object] = json.loads(header)
    return tuple(sorted(names.keys() - {"__metadata__"}))


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := source.read(_PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()
