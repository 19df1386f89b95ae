"""Reads the small, safe part of YAML that specs are written in, keeping every position.

Rules:

- one UTF-8 document of at most 256 KiB, 20 levels and 10,000 values;
- no anchors, aliases, merge keys or tags: nothing can expand, and nothing can be constructed;
- a key occurs once in a mapping, and is a word;
- unquoted words are read as YAML 1.2 reads them (`no` is text, `1:30` is text), except that a
  number JSON does not have (.inf, 0x1F) stays text too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from enginekeeper.specs.problems import Problem, SpecError, path_text, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_VALUES = 10_000

Path: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

_NO_ALIAS = "the value itself, written out: specs have no anchors and no aliases"
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_INT = re.compile(r"[-+]?[0-9]{1,4000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """A position in the file; both count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """A file's values and where each is; `problems` are those of its form."""

    value: Value = None
    marks: dict[Path, Mark] = field(default_factory=dict)
    """Position of each value, by its path."""

    keys: dict[Path, Mark] = field(default_factory=dict)
    """Position of each mapping's key, by the path of its value."""

    problems: list[Problem] = field(default_factory=list)
    holes: set[Path] = field(default_factory=set)
    """Paths whose value could not be had, so that nothing more can be said about it."""

    def nearest(self, path: Path) -> tuple[Path, Mark]:
        """Returns the longest beginning of a path that is in the file, and where it is."""
        while path and path not in self.marks:
            path = path[:-1]
        return path, self.marks.get(path, Mark(1, 1))


def read_document(data: bytes, source: str) -> Document:
    """Reads a file's bytes; raises SpecError where what follows cannot be read at all."""
    text = _decoded(data, source)
    parser = YAML(typ="safe", pure=True)
    reader = _Reader()
    try:
        reader.read(parser.parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        what = f"not YAML: {error.problem or error.context}"
        raise _stopped(source, Mark(line, column), what) from None
    except YAMLError as error:
        raise _stopped(source, Mark(1, 1), f"not YAML: {str(error).splitlines()[0]}") from None
    except _TooMuchError as error:
        raise _stopped(source, error.mark, str(error)) from None
    return reader.document


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise SpecError(
            source,
            (
                Problem(
                    line=1,
                    column=1,
                    field="",
                    what="too large for a build spec",
                    found=f"{len(data)} bytes",
                    expected=f"at most {MAX_BYTES} bytes",
                ),
            ),
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise _stopped(source, Mark(line, column), "not UTF-8 text") from None


def _stopped(source: str, mark: Mark, what: str) -> SpecError:
    return SpecError(source, (Problem(line=mark.line, column=mark.column, field="", what=what),))


class _TooMuchError(Exception):
    def __init__(self, what: str, mark: Mark) -> None:
        super().__init__(what)
        self.mark = mark


class _Reader:
    """Builds values from parser events; recursion is bounded by MAX_DEPTH."""

    def __init__(self) -> None:
        self.document = Document()
        self._values = 0

    def read(self, events: Iterator[Event]) -> None:
        documents = 0
        for event in events:
            if not isinstance(event, DocumentStartEvent):
                continue
            documents += 1
            if documents > 1:
                raise _TooMuchError("more than one document in the file", _mark(event))
            self.document.value = self._value(next(events), events, ())

    def _value(self, event: Event, events: Iterator[Event], path: Path) -> Value:
        if not isinstance(event, NodeEvent):
            raise TypeError(f"the parser yields {event} where a value must be")
        self._count(event, path)
        self.document.marks.setdefault(path, _mark(event))
        if isinstance(event, AliasEvent):
            self._problem(event, path, f"uses an alias, *{event.anchor}", _NO_ALIAS)
            self.document.holes.add(path)
            return None
        if event.anchor is not None:
            self._problem(event, path, f"defines an anchor, &{event.anchor}", _NO_ALIAS)
        tag = getattr(event, "tag", None)  # aliases have none
        if tag is not None and str(tag) != "!":
            self._problem(event, path, f"has a tag, {tag}", "a plain value")
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(events, path)
        return self._scalar(event, path) if isinstance(event, ScalarEvent) else None

    def _mapping(self, events: Iterator[Event], path: Path) -> Value:
        mapping: dict[str, Value] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            key = self._key(event, events, path)
            inside = (*path, key)
            if key in mapping:
                first = self.document.keys[inside]
                self._problem(
                    event, inside, f"is given twice, first in line {first.line}", "one value"
                )
                self._value(next(events), events, (*inside, "again"))
                continue
            self.document.keys[inside] = _mark(event)
            mapping[key] = self._value(next(events), events, inside)
        return mapping

    def _key(self, event: Event, events: Iterator[Event], path: Path) -> str:
        value = self._value(event, events, (*path, "key"))
        self.document.marks.pop((*path, "key"), None)
        if isinstance(value, str) and value != "<<":
            return value
        self._problem(event, path, f"has {shown(value)} as a key", "a word")
        stand_in = f"{shown(value)}@{event.start_mark.index}"
        self.document.holes.add((*path, stand_in))
        return stand_in

    def _scalar(self, event: ScalarEvent, path: Path) -> Value:
        value = _resolved(event)
        if isinstance(value, str) and _HALF_A_CHARACTER.search(value):
            self._problem(event, path, "has half of a UTF-16 pair in it", "whole characters")
            self.document.holes.add(path)
            return None
        return value

    def _sequence(self, events: Iterator[Event], path: Path) -> Value:
        sequence: list[Value] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            sequence.append(self._value(event, events, (*path, len(sequence))))
        return sequence

    def _count(self, event: Event, path: Path) -> None:
        self._values += 1
        if len(path) > MAX_DEPTH:
            raise _TooMuchError(f"nested deeper than {MAX_DEPTH} levels", _mark(event))
        if self._values > MAX_VALUES:
            raise _TooMuchError(f"more than {MAX_VALUES} values", _mark(event))

    def _problem(self, event: Event, path: Path, what: str, expected: str) -> None:
        mark = _mark(event)
        self.document.problems.append(
            Problem(
                line=mark.line,
                column=mark.column,
                field=path_text(path),
                what=what,
                expected=expected,
            )
        )


def _mark(event: Event) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _resolved(event: ScalarEvent) -> Value:
    text = str(event.value)
    if event.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and not text.lstrip("+-").isdigit():
        number = float(text)
        return number if math.isfinite(number) else text
    return text
