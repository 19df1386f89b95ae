"""Files of arrays that steps write for others to judge: safetensors, with JSON in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError

T = TypeVar("T", str, int)


@dataclass(frozen=True)
class ArrayFile:
    """A whole file of the version that its reader knows."""

    path: Path
    arrays: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, *, holds: str, schema: str) -> ArrayFile:
        """Reads a file of what it `holds`; raises InputError for another, or another version."""
        try:
            with safe_open(path, framework="np") as handle:
                metadata, names = handle.metadata() or {}, handle.keys()
                arrays = {name: handle.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise InputError(f"not a file of {holds}", where=str(path), actual=error) from error
        if metadata.get("schema") != schema:
            raise InputError(
                f"{holds} of another version", where=str(path), actual=metadata.get("schema"),
                expected=schema,
            )  # fmt: skip
        return cls(path, arrays, metadata)

    def array(self, name: str) -> NDArray[Any]:
        """Returns an array; raises InputError where there is none of that name."""
        if name not in self.arrays:
            raise InputError("an array is missing", where=str(self.path), expected=name)
        return self.arrays[name]

    def said(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Returns what the metadata say under a name; raises InputError where that is no JSON."""
        if name not in self.metadata:
            raise InputError("something is not said", where=str(self.path), expected=name)
        return parse_json(self.metadata[name], f"{self.path}: {name}")

    def listed(self, name: str, kind: type[T]) -> tuple[T, ...]:
        """Returns a list in the metadata; raises InputError unless all of it is of a kind."""
        said = self.said(name)
        if not isinstance(said, list) or not all(type(one) is kind for one in said):
            raise InputError(
                "not a list of what belongs there", where=f"{self.path}: {name}",
                actual=repr(said)[:80], expected=f"a list of {kind.__name__}",
            )  # fmt: skip
        return tuple(said)
