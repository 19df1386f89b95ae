"""Says from a build's log why it failed: typed causes from a table of patterns.

Rules:

- a pattern is a cause with its remedy and its source; the table is `data/failure_patterns.json`;
- the first cause in the log counts: what follows it is most often its consequence;
- a weak pattern, words that a build also prints on its way to success, counts only alone;
- what a pattern is to come `after` makes words that have two causes tell one of them;
- what no pattern knows is unknown and stays unknown: a wrong cause costs more than none;
- warnings that a healthy build prints, too, are no patterns;
- nothing in a pattern repeats without a bound but digits and spaces: a log has lines of megabytes.

Example:
    diagnosis = diagnose(log.read_text())
    if diagnosis is not None:
        print(diagnosis.pattern.cause, *diagnosis.evidence)
"""

from __future__ import annotations

import re
from dataclasses import dataclass as plain_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.errors import InputError
from enginekeeper.tables import read_table

_TABLE = Path(__file__).with_name("data") / "failure_patterns.json"
_STRICT = ConfigDict(extra="forbid", strict=True)

_BEFORE, _AFTER = 4, 5
"""Lines shown around the one that decided: ten in all."""

_LONGEST = 300
"""Characters shown of one line; the name of a fused node can fill a screen."""


class FailureGroup(StrEnum):
    """Why a build failed, by what can be done about it."""

    VERSION_MISMATCH = "version_mismatch"
    WRONG_GPU = "wrong_gpu"
    DRIVER = "driver"
    LIBRARY_CLASH = "library_clash"
    PLUGIN_MISSING = "plugin_missing"
    FLAG_DRIFT = "flag_drift"
    OUT_OF_HOST_MEMORY = "out_of_host_memory"
    OUT_OF_GPU_MEMORY = "out_of_gpu_memory"
    NO_KERNEL = "no_kernel"
    UNSUPPORTED_QUANTIZATION = "unsupported_quantization"
    UNSUPPORTED_MODEL = "unsupported_model"
    CHECKPOINT_BROKEN = "checkpoint_broken"
    BAD_OPTIONS = "bad_options"


LASTING = frozenset(
    {
        FailureGroup.FLAG_DRIFT,
        FailureGroup.NO_KERNEL,
        FailureGroup.UNSUPPORTED_QUANTIZATION,
        FailureGroup.UNSUPPORTED_MODEL,
        FailureGroup.CHECKPOINT_BROKEN,
        FailureGroup.BAD_OPTIONS,
    }
)
"""Causes that lie in what the engine key names: the same build fails the same way anywhere.

The others lie in the host: its memory, its driver, its libraries."""

Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FailurePattern:
    """One row of the table."""

    id: Text
    group: FailureGroup
    pattern: Text
    """Regular expression, searched for in the whole log."""

    after: Text | None = None
    """Regular expression for what has to be in the log before: words that are no cause alone."""

    cause: Text
    remedy: Text
    source: Text
    """Who reported or wrote the words."""

    weak: bool = False
    """Whether builds that go well may print it, too."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Table:
    schema: Literal[1]
    patterns: tuple[FailurePattern, ...]


@plain_dataclass(frozen=True)
class Diagnosis:
    """A cause that was found in a log, and the lines that say so."""

    pattern: FailurePattern
    line: str
    """The line that decided."""

    evidence: tuple[str, ...]
    """It and its surroundings: ten lines at most, as they are in the log."""


@cache
def failure_patterns() -> tuple[FailurePattern, ...]:
    """Returns the table; raises InputError where an expression or an id is not usable."""
    patterns = read_table(_TABLE, TypeAdapter(_Table)).patterns
    if len({pattern.id for pattern in patterns}) != len(patterns):
        raise InputError("an id is there twice", where=str(_TABLE))
    for pattern in patterns:
        try:
            re.compile(pattern.pattern)
            re.compile(pattern.after or "")
        except re.error as error:
            raise InputError(f"{pattern.id}: {error}", where=str(_TABLE)) from error
    return patterns


def diagnose(log: str) -> Diagnosis | None:
    """Returns the first cause that a log names, or None if no pattern knows one."""
    found = [
        (pattern.weak, start, pattern.after is None, pattern)
        for pattern in failure_patterns()
        if (start := _place(pattern, log)) is not None
    ]
    if not found:
        return None
    _, start, _, pattern = min(found, key=lambda one: one[:3])
    number = log.count("\n", 0, start)
    lines = log.split("\n")
    around = lines[max(0, number - _BEFORE) : number + _AFTER + 1]
    return Diagnosis(
        pattern=pattern,
        line=_shortened(lines[number].strip()),
        evidence=tuple(_shortened(line.rstrip()) for line in around if line.strip()),
    )


def _place(pattern: FailurePattern, log: str) -> int | None:
    """Returns where a log says a pattern's words, if it says before what they are to come after."""
    before = re.search(pattern.after or "", log)
    if before is None:
        return None
    match = re.compile(pattern.pattern).search(log, before.end())
    return None if match is None else match.start()


def _shortened(line: str) -> str:
    text = "".join(character for character in line if character.isprintable())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
