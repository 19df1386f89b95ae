"""Reads build specs from YAML files; every problem of a file is reported at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from enginekeeper.errors import InputError, MissingError
from enginekeeper.specs.diagnosis import diagnose
from enginekeeper.specs.document import MAX_BYTES, read_document
from enginekeeper.specs.model import BuildSpec
from enginekeeper.specs.problems import SpecError
from enginekeeper.specs.schema import adapter, build_spec_schema


def load_spec(path: Path) -> BuildSpec:
    """Reads a spec file; its relative paths are made relative to the file's folder.

    Raises SpecError for what is wrong with the contents, MissingError if there is no file.
    """
    spec = parse_spec(_read(path), str(path))
    folder = path.parent
    model, calibration = spec.model, spec.calibration
    if model.path is not None:
        model = replace(model, path=str(folder / Path(model.path).expanduser()))
    if calibration.data != "builtin":
        data = str(folder / Path(calibration.data).expanduser())
        calibration = replace(calibration, data=data)
    return replace(spec, model=model, calibration=calibration)


def parse_spec(data: bytes, source: str) -> BuildSpec:
    """Reads a spec from bytes; `source` is what messages call the file."""
    document = read_document(data, source)
    problems = list(document.problems)
    try:
        spec = adapter().validate_json(json.dumps(document.value))
    except ValidationError as error:
        problems += diagnose(error, document, build_spec_schema())
    else:
        if not problems:
            return spec
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
