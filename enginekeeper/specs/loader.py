"""Reads build specs from YAML files; every problem of a file is reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from enginekeeper.errors import InputError, MissingError
from enginekeeper.specs.diagnosis import diagnose
from enginekeeper.specs.document import MAX_BYTES, read_document
from enginekeeper.specs.matrix import MatrixError, expand
from enginekeeper.specs.model import BuildSpec
from enginekeeper.specs.problems import Problem, SpecError, path_text
from enginekeeper.specs.recipes import Recipe, RecipeEntry
from enginekeeper.specs.schema import adapter, build_spec_schema
from enginekeeper.specs.variants import Variant

Form = TypeVar("Form")


def load_variants(path: Path) -> tuple[Variant, ...]:
    """Reads a spec file and expands it.

    Raises SpecError for what is wrong with the contents, MissingError if there is no file.
    """
    data = _read(path)
    spec = _beside_file(parse_spec(data, str(path)), path)
    try:
        return expand(spec)
    except MatrixError as error:
        _, mark = read_document(data, str(path)).nearest(error.field)
        problem = Problem(
            line=mark.line,
            column=mark.column,
            field=path_text(error.field),
            what=error.what,
            found=None if error.actual is None else str(error.actual),
            expected=None if error.expected is None else str(error.expected),
            remedy=error.remedy,
        )
        raise SpecError(str(path), (problem,)) from error


def _beside_file(spec: BuildSpec, path: Path) -> BuildSpec:
    """Makes a spec's relative paths relative to its file's folder."""
    folder = path.parent
    model, calibration = spec.model, spec.calibration
    if model.path is not None:
        model = replace(model, path=_beside(folder, model.path, f"{path}: model.path"))
    if calibration.data != "builtin":
        data = _beside(folder, calibration.data, f"{path}: calibration.data")
        calibration = replace(calibration, data=data)
    return replace(spec, model=model, calibration=calibration)


def _beside(folder: Path, name: str, where: str) -> str:
    try:
        return str(folder / Path(name).expanduser())
    except RuntimeError as error:  # what Python says of a home that nobody has
        raise InputError(
            "the path begins with the home of a user who does not exist",
            where=where,
            actual=name[:200],
            expected="a path, or ~ for your own home",
        ) from error


def parse_spec(data: bytes, source: str) -> BuildSpec:
    """Reads a spec from bytes; `source` is what messages call the file."""
    return _parsed(data, source, adapter(), build_spec_schema())


def parse_recipe(text: str, source: str) -> Recipe:
    """Reads one recipe as an entry of a spec's list: its name, or a mapping."""
    entry: TypeAdapter[Recipe] = TypeAdapter(RecipeEntry)
    return _parsed(text.encode(errors="surrogateescape"), source, entry, entry.json_schema())


def _parsed(data: bytes, source: str, form: TypeAdapter[Form], schema: Mapping[str, Any]) -> Form:
    document = read_document(data, source)
    problems = list(document.problems)
    try:
        value = form.validate_json(json.dumps(document.value))
    except ValidationError as error:
        problems += diagnose(error, document, schema)
    else:
        if not problems:
            return value
    raise SpecError(source, tuple(problems))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise MissingError(
            "no such build spec", where=str(path), remedy="give the path of a .yaml file"
        ) from None
    except OSError as error:
        raise InputError(
            "the build spec cannot be read", where=str(path), actual=error.strerror
        ) from error
