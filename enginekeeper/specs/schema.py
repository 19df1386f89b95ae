"""The JSON Schema of build specs, for editors and for anything else that checks YAML.

It describes the form alone; what needs several fields at once, or facts, is checked by the loader
and by the compatibility rules. `python -m enginekeeper.specs.schema FILE` writes it.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from enginekeeper.specs.model import BuildSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def adapter() -> TypeAdapter[BuildSpec]:
    """Returns the validator of the form."""
    return TypeAdapter(BuildSpec)


def build_spec_schema() -> dict[str, Any]:
    """Returns the schema as a JSON document."""
    body = _lines_joined(adapter().json_schema())
    return {"$schema": DIALECT, **body, "title": "Enginekeeper build spec"}


def schema_text() -> str:
    """Returns the schema as the text of the file that ships with the specs."""
    return json.dumps(build_spec_schema(), indent=2, ensure_ascii=False) + "\n"


def _lines_joined(node: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Returns the schema without the line breaks and titles that come from source code."""
    if isinstance(node, list):
        return [_lines_joined(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: " ".join(value.split()) if key == "description" and isinstance(value, str)
        else _lines_joined(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
