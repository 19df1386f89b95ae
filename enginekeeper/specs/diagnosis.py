"""Turns a validation error into problems a person can act on.

The JSON Schema of the form is the one place that knows what may stand where, so what was expected
and which fields exist are looked up there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginekeeper.specs.form import did_you_mean
from enginekeeper.specs.problems import KINDS, Problem, path_text, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from enginekeeper.specs.document import Document, Path


def diagnose(
    error: ValidationError, document: Document, schema: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yields one problem for each mistake; none for what follows from another."""
    for detail in error.errors(include_url=False):
        if not _follows_from_another(detail, document):
            yield _problem(detail, document, schema)


def _follows_from_another(detail: ErrorDetails, document: Document) -> bool:
    if detail["type"] == "too_short" and detail["input"]:
        return True  # pydantic counts only the entries that were right
    path = detail["loc"]
    return any(path[: len(broken)] == broken for broken in document.holes)


def _problem(detail: ErrorDetails, document: Document, schema: Mapping[str, Any]) -> Problem:
    context = detail.get("ctx", {})
    path: Path = detail["loc"]
    unknown = detail["type"] == "unexpected_keyword_argument"
    member = context.get("field") if detail["type"] == "spec" else None
    if member is not None:
        path = (*path, member)
    place, mark = document.nearest(path)
    missing = detail["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}
    absent = missing or (member is not None and place != path)
    value = _value_at(document.value, place)
    if unknown or value is None:
        mark = document.keys.get(place, mark)
    what, expected, remedy = _told(detail, path, schema)
    return Problem(
        line=mark.line,
        column=mark.column,
        field=path_text(path if absent or unknown else place),
        what=what,
        found=None if absent or unknown else shown(value),
        expected=expected,
        remedy=remedy,
    )


def _told(
    detail: ErrorDetails, path: Path, schema: Mapping[str, Any]
) -> tuple[str, str | None, str | None]:
    """Returns what is wrong, what was expected, and what to do."""
    kind, context = detail["type"], detail.get("ctx", {})
    here = _schema_at(schema, path)
    if kind == "spec":
        return context["what"], context["expected"], context["remedy"]
    if kind == "unexpected_keyword_argument":
        known = list(_schema_at(schema, path[:-1]).get("properties", ()))
        return "no such field", f"one of {', '.join(known)}", did_you_mean(str(path[-1]), known)
    if kind in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return "is missing", here.get("description"), None
    if choices := here.get("enum") or [here[key] for key in ("const",) if key in here]:
        names = [str(choice) for choice in choices]
        near = did_you_mean(str(detail["input"]), names)
        return "not a known value", f"one of {', '.join(names)}", near
    remedy = "put it in quotes" if kind == "string_type" and _is_number(detail["input"]) else None
    wanted = KINDS.get(kind) or _bounds(here) or detail["msg"]
    meaning = here.get("description")
    expected = wanted if meaning is None else f"{wanted} ({meaning.rstrip('.')})"
    return _mistake(kind), " ".join(expected.split()), remedy


def _mistake(kind: str) -> str:
    if kind in KINDS:
        return "is of the wrong kind"
    return "is out of range" if kind.startswith(("greater", "less", "too_")) else "is malformed"


def _bounds(here: Mapping[str, Any]) -> str | None:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "minItems": "entries, at least",
        "maxItems": "entries, at most",
        "pattern": "text that matches",
    }
    said = [f"{text} {here[key]}" for key, text in words.items() if key in here]
    return ", ".join(said) or None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value_at(value: Any, path: Path) -> object:  # noqa: ANN401 - the file's own shape
    for step in path:
        value = value[step]
    return value


def _schema_at(schema: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Returns the part of the schema that describes the value at a path; empty if none does."""
    node: Mapping[str, Any] = _resolved(schema, schema)
    for step in path:
        below = node.get("items") if isinstance(step, int) else node.get("properties", {}).get(step)
        if below is None:
            return {}
        description = below.get("description")
        node = _resolved(below, schema)
        node = node if description is None else {**node, "description": description}
    return node


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follows references, and prefers the mapping, then whatever is not null, of alternatives."""
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    if "anyOf" not in node:
        return node
    choices = [_resolved(choice, schema) for choice in node["anyOf"]]
    choices.sort(key=lambda choice: ("properties" not in choice, choice.get("type") == "null"))
    return choices[0]
