"""Reads what a step left behind, believing nothing of it before it is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.toolchains.errors import (
    FailedStepError,
    MalformedResultError,
    StepPlace,
    StepRefusedError,
)

SCHEMA = 1

_LARGEST = 16 * 1024 * 1024  # bytes; results hold numbers and names, tensors go into files


@dataclass(frozen=True)
class StepOutcome:
    """What a step that ended well says about its work."""

    outputs: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    """Wall time of the whole process, start-up included."""

    log: Path


def read_result(path: Path, place: StepPlace, *, seconds: float) -> StepOutcome:
    """Returns the result; raises StepRefusedError for a refusal, MalformedResultError otherwise."""
    result = _load(path, place)
    if result.get("schema") != SCHEMA:
        raise _malformed(place, "schema", result.get("schema"), SCHEMA)
    if result.get("step") != place.step:
        raise _malformed(place, "step", result.get("step"), place.step)
    versions = _versions(result, place)
    _check_seconds(result, place)
    ok = result.get("ok")
    if ok is False:
        raise _refusal(result, place)
    if ok is not True:
        raise _malformed(place, "ok", ok, "true or false")
    outputs = result.get("outputs")
    if not isinstance(outputs, dict):
        raise _malformed(place, "outputs", outputs, "an object")
    return StepOutcome(outputs, versions, seconds, place.log)


def _load(path: Path, place: StepPlace) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise _malformed(place, "size", path.stat().st_size, f"at most {_LARGEST} bytes")
    except FileNotFoundError:
        raise MalformedResultError(
            "ended with status 0 but wrote no result",
            place,
            expected=path.name,
            remedy=f"read {place.log}; if nothing explains it, report a defect of this step",
        ) from None
    except OSError as error:
        raise _malformed(place, "result", error, "a JSON document") from error
    try:
        return read_json_object(path)
    except InputError as error:
        raise _malformed(place, "result", error, "a JSON object") from error


def _versions(result: Mapping[str, Any], place: StepPlace) -> dict[str, str]:
    versions = result.get("versions")
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise _malformed(place, "versions", versions, "an object of texts")
    return versions


def _check_seconds(result: Mapping[str, Any], place: StepPlace) -> None:
    seconds = result.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not _sane(seconds):
        raise _malformed(place, "seconds", seconds, "a number, 0 or more")


def _sane(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds >= 0


def _refusal(result: Mapping[str, Any], place: StepPlace) -> FailedStepError:
    error = result.get("error")
    texts = {"kind", "message", "where", "expected", "actual", "remedy"}
    if not isinstance(error, dict) or not {"kind", "message"} <= set(error) <= texts:
        return _malformed(place, "error", error, "an object with kind and message")
    if not all(isinstance(value, str) for value in error.values()):
        return _malformed(place, "error", error, "texts")
    return StepRefusedError(
        error["message"],
        place,
        kind=error["kind"],
        subject=error.get("where"),
        actual=error.get("actual"),
        expected=error.get("expected"),
        remedy=error.get("remedy"),
    )


def _malformed(
    place: StepPlace, field: str, actual: object, expected: object
) -> MalformedResultError:
    return MalformedResultError(
        f"wrote a result whose {field} is not in the agreed form",
        place,
        actual=repr(actual)[:300],
        expected=expected,
        remedy="a defect of this step: please report it with its log",
    )
