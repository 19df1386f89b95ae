"""Everything that is wrong with a spec file, told together."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from enginekeeper.errors import InputError

_WORD = re.compile(r"[\w-]{1,80}", re.ASCII)

MAX_SHOWN = 80
"""Characters of an offending value that a message repeats."""

KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "enum": "one of the names below",
}
"""What pydantic's kinds of error expected, in the words of a person who writes files."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where; lines and columns count from 1."""

    line: int
    column: int
    field: str
    """Path of the field, such as `recipes[2].group_size`; empty for the file as a whole."""

    what: str
    found: str | None = None
    expected: str | None = None
    remedy: str | None = None


class SpecError(InputError):
    """A build spec cannot be used; carries every problem found, in file order."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda it: (it.line, it.column, it.field)))
        first = self.problems[0]
        super().__init__(
            _headline(first),
            where=f"{source}:{first.line}:{first.column}",
            actual=first.found,
            expected=first.expected,
            remedy=first.remedy,
        )

    def __str__(self) -> str:
        """Renders each problem as every other error of the project is rendered."""
        return "\n".join(
            str(
                InputError(
                    _headline(problem),
                    where=f"{self.source}:{problem.line}:{problem.column}",
                    actual=problem.found,
                    expected=problem.expected,
                    remedy=problem.remedy,
                )
            )
            for problem in self.problems
        )

    def as_dict(self) -> dict[str, object]:
        """Adds the list of problems to the fields every error has."""
        return {**super().as_dict(), "problems": [asdict(problem) for problem in self.problems]}


def _headline(problem: Problem) -> str:
    return f"{problem.field}: {problem.what}" if problem.field else problem.what


def shown(value: object) -> str:
    """Returns a value as a message repeats it: short, and with its quotes if it is text."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def path_text(path: tuple[str | int, ...]) -> str:
    """Returns a path as a person writes it: `recipes[2].group_size`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _WORD.fullmatch(step) else shown(step)
            text += f".{name}" if text else name
    return text
