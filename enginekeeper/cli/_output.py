"""Rendering: data to stdout, as a table or as JSON; everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Output:
    """Where a command's data goes and in which form."""

    as_json: bool = False

    def document(self, document: Any, text: str) -> None:  # noqa: ANN401 - any JSON value
        """Prints a document: the JSON value with --json, the given text otherwise."""
        if self.as_json:
            self.json(document)
        else:
            sys.stdout.write(text.rstrip("\n") + "\n")

    def json(self, document: Any) -> None:  # noqa: ANN401 - any JSON value
        """Prints one JSON value."""
        json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")

    def table(self, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
        """Prints rows as JSON objects, or as a table of the named columns that never truncates."""
        if self.as_json:
            self.json([dict(row) for row in rows])
            return
        sys.stdout.write(render_table(rows, columns))

    def outcome(self, document: Any, said: str) -> None:  # noqa: ANN401 - any JSON value
        """Tells what was done: the JSON value as data with --json, a note otherwise."""
        if self.as_json:
            self.json(document)
        else:
            self.note(said)

    def note(self, text: str) -> None:
        """Says something that is not data."""
        sys.stderr.write(text + "\n")


def render_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Lays rows out in aligned columns; an absent value prints as `-`."""
    cells = [[column.upper().replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return str(value)  # numbers as they are: a rounded one is another one
