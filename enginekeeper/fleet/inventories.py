"""Reads inventories that nodes wrote: strictly, and each node's newest document only.

A place is a file with one document, a `.jsonl` file with one a line, or a directory of such
files. Documents come from outside: what is not one is refused with its place, and text that
could move a terminal's cursor is refused too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.inventory import READABLE, Inventory
from registry.digests import Digest
from registry.errors import InvalidRecordError
from registry.names import check_component

MAX_BYTES = 4 * 1024 * 1024
"""The largest document that is read; one of eight GPUs has about 6 kB."""

_SUFFIXES = frozenset({".json", ".jsonl"})


def read_inventories(places: Sequence[Path]) -> tuple[Inventory, ...]:
    """Returns the newest inventory of every node, by name; raises InputError for what is none."""
    newest: dict[str, tuple[datetime, Inventory]] = {}
    for found in _documents(places):
        taken = datetime.fromisoformat(found.taken_at)
        known = newest.get(found.node)
        if known is None or taken > known[0]:
            newest[found.node] = (taken, found)
    if not newest:
        raise MissingError(
            "there is no inventory",
            where=", ".join(map(str, places)),
            remedy="on each node: enginekeeper agent once --output FILE",
        )
    return tuple(found for _, (_, found) in sorted(newest.items()))


def parse_inventory(text: bytes, where: str) -> Inventory:
    """Returns the inventory that a document is; raises InputError that names the field."""
    if len(text) > MAX_BYTES:
        raise InputError("too large for an inventory", where=where, actual=f"{len(text)} bytes")
    return checked_inventory(parse_json(text, where), text, where)


def checked_inventory(document: object, text: bytes, where: str) -> Inventory:
    """Returns the inventory that a document is, which was read and which the text says.

    Raises InputError that names the field.
    """
    if not isinstance(document, dict) or document.get("schema") not in READABLE:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(
            "not an inventory of a version that is known",
            where=where, actual=f"schema {found!r:.80}",
            expected=f"schema {' or '.join(map(str, READABLE))}",
        )  # fmt: skip
    if not _surely_printable(text):
        _check_text(document, where)
    try:
        inventory = _form().validate_json(text, strict=True)
        check_component(inventory.node, where="node")
        zone = datetime.fromisoformat(inventory.taken_at).tzinfo
        for digest in (
            *(one.engine for one in inventory.engines),
            *(one.engine for one in inventory.running),
        ):
            Digest.parse(digest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"not an inventory: {first['msg']}", where=f"{where}: {field}") from error
    except (InvalidRecordError, ValueError) as error:
        raise InputError(f"not an inventory: {error}", where=where) from error
    if zone is None:
        raise InputError(
            "not an inventory: its time has no time zone",
            where=f"{where}: taken_at", actual=inventory.taken_at, expected="a time in UTC",
        )  # fmt: skip
    return inventory


@cache
def _form() -> TypeAdapter[Inventory]:
    return TypeAdapter(Inventory)


def _documents(places: Iterable[Path]) -> Iterator[Inventory]:
    for file in _files(places):
        try:
            if file.suffix != ".jsonl":
                yield parse_inventory(file.read_bytes(), str(file))
                continue
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield parse_inventory(line, f"{file}:{number}")
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(
                file
                for file in place.iterdir()
                if file.suffix in _SUFFIXES and not file.name.startswith(".")
            )
        else:
            yield place


def _surely_printable(text: bytes) -> bool:
    """Says whether no text of a document can hold anything but printable characters.

    JSON has control characters in strings only behind a backslash; looking at four hundred texts
    one by one takes a fifth of the time that a service has for an inventory.
    """
    return text.isascii() and b"\\" not in text and b"\x7f" not in text


def _check_text(value: object, where: str) -> None:
    """Refuses control characters in any name or text of a document."""
    if isinstance(value, str):
        if not value.isprintable():
            raise InputError("text with control characters", where=where, actual=ascii(value)[:80])
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, where)
            _check_text(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_text(item, where)
