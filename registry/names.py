"""Names that become file paths and object keys: what is accepted, and nothing else.

Rules:

- a path is relative, POSIX, and stays below the directory it is joined to;
- no component is empty, `.`, `..`, or hidden behind a backslash or a control character;
- a component that a person chose (a model, a recipe, a target) is letters, digits and `._+-`;
- what is only shown to people is one line that a terminal takes for text.
"""

from __future__ import annotations

import re

from registry.errors import InvalidRecordError

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_PATH = 1024  # the longest S3 object key, in bytes


def check_path(path: str, *, where: str = "path") -> str:
    """Returns a relative path that cannot leave its directory; raises InvalidRecordError."""
    reason = _why_not_confined(path)
    if reason is not None:
        raise InvalidRecordError(
            f"the path {reason}",
            where=where,
            actual=repr(path),
            expected="a relative path that stays below its directory, e.g. `a/b.json`",
        )
    return path


def check_component(name: str, *, where: str) -> str:
    """Returns a name that is safe as one component of a path; raises InvalidRecordError."""
    if not _COMPONENT.fullmatch(name):
        raise InvalidRecordError(
            "not usable as a name",
            where=where,
            actual=repr(name),
            expected="1 to 128 letters, digits, `._+-`, starting with a letter or digit",
        )
    return name


def check_line(text: str, *, where: str) -> str:
    """Returns text for people if it is one printable line; raises InvalidRecordError.

    What a terminal would take for an order does not get into the catalogue.
    """
    if not text.isprintable():
        raise InvalidRecordError(
            "not one line of printable text", where=where, actual=ascii(text),
            expected="no control character and no end of a line",
        )  # fmt: skip
    return text


def _why_not_confined(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not path or size > _MAX_PATH:
        return f"is empty or longer than {_MAX_PATH} bytes"
    if path.startswith("/"):
        return "is absolute"
    if "\\" in path or _CONTROL.search(path):
        return "has a backslash or a control character"
    if any(component in ("", ".", "..") for component in path.split("/")):
        return "has an empty, `.` or `..` component"
    return None
