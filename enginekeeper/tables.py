"""Reads the tables of facts that ship with Enginekeeper, each against the form it must have.

A table is data somebody maintains by hand: a misspelt field, a number in quotes or a source that
is not listed is an error when the table is read, not a fact that is silently missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError

Table = TypeVar("Table")


def read_table(path: Path, form: TypeAdapter[Table]) -> Table:
    """Reads a table; raises InputError that names the file, the field and what was expected."""
    document = read_json_object(path)
    try:
        return form.validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(path),
            actual=repr(first["input"])[:200],
            remedy="correct the table",
        ) from error
