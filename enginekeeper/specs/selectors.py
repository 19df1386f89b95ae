"""Selectors: patterns that pick variants by identifier, as in `--only 'smollm2-*.{w8,fp}*'`.

`*` matches any text (dots too), `?` one character, `[abc]` one of these; `{a,b}` is either, and
braces nest. A selector that picks nothing is an error: it was meant to pick something.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from enginekeeper.errors import InputError, MissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from enginekeeper.specs.variants import Variant

_Node = TypeVar("_Node")
MAX_ALTERNATIVES = 1000
MAX_LENGTH = 1000


def alternatives(pattern: str) -> tuple[str, ...]:
    """Returns the patterns without braces that a pattern with braces stands for, in order.

    Raises InputError for braces that do not close, and for more than a thousand alternatives.
    """
    if len(pattern) > MAX_LENGTH:
        raise _unusable(pattern[:80] + "…", f"at most {MAX_LENGTH} characters")
    done: list[str] = []
    open_patterns = [pattern]
    while open_patterns:
        current = open_patterns.pop()
        split = _outermost(current, pattern)
        if split is None:
            done.append(current)
        else:
            before, choices, after = split
            open_patterns += [before + choice + after for choice in reversed(choices)]
        if len(done) + len(open_patterns) > MAX_ALTERNATIVES:
            raise _unusable(pattern, f"braces with at most {MAX_ALTERNATIVES} combinations")
    return tuple(dict.fromkeys(done))


def _outermost(text: str, pattern: str) -> tuple[str, list[str], str] | None:
    """Splits at the first pair of braces; None if there is none."""
    start = text.find("{")
    if start == -1:
        if "}" in text:
            raise _unusable(pattern, "a { for each }")
        return None
    if "}" in text[:start]:
        raise _unusable(pattern, "a { for each }")
    depth, cuts = 0, [start]
    for at in range(start, len(text)):
        if text[at] == "{":
            depth += 1
        elif text[at] == "," and depth == 1:
            cuts.append(at)
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                ends = [*cuts[1:], at]
                choices = [text[a + 1 : b] for a, b in zip(cuts, ends, strict=True)]
                return text[:start], choices, text[at + 1 :]
    raise _unusable(pattern, "a } for each {")


def _unusable(pattern: str, expected: str) -> InputError:
    return InputError("the selector cannot be used", actual=pattern, expected=expected)


@dataclass(frozen=True)
class Selector:
    """One pattern; calling it with an identifier says whether it picks it."""

    pattern: str

    def __post_init__(self) -> None:
        alternatives(self.pattern)

    def __call__(self, identifier: str) -> bool:
        """Returns whether the identifier fits the pattern, as a whole and case by case."""
        return any(fnmatchcase(identifier, plain) for plain in alternatives(self.pattern))


@dataclass(frozen=True)
class Selection:
    """What `--only` and `--skip` ask for together; both may be given several times."""

    only: tuple[Selector, ...] = ()
    """Patterns of which a variant must fit one; without any, all variants fit."""

    skip: tuple[Selector, ...] = ()

    def __call__(self, identifier: str) -> bool:
        """Returns whether an identifier is picked."""
        wanted = not self.only or any(selector(identifier) for selector in self.only)
        return wanted and not any(selector(identifier) for selector in self.skip)

    def of(self, variants: Iterable[Variant]) -> tuple[Variant, ...]:
        """Returns the picked variants in their order; raises MissingError for an idle selector."""
        known = tuple(variants)
        names = [str(variant.identifier) for variant in known]
        for selector in (*self.only, *self.skip):
            if not any(selector(name) for name in names):
                raise MissingError(
                    "the selector picks no variant",
                    actual=selector.pattern,
                    expected=_offer(selector.pattern, names),
                    remedy="quote the pattern, so that the shell leaves its * alone",
                )
        picked = tuple(variant for variant in known if self(variant.identifier))
        if not picked:
            raise MissingError("the selectors leave no variant", expected=_offer("", names))
        return picked


def _offer(pattern: str, names: list[str]) -> str:
    plain = pattern.replace("*", "").replace("?", "")
    near = get_close_matches(plain, names, n=5, cutoff=0.3) or names[:5]
    more = len(names) - len(near)
    return ", ".join(near) + (f" and {more} more" if more > 0 else "")


def selection(only: Iterable[str] = (), skip: Iterable[str] = ()) -> Selection:
    """Returns the selection that command-line patterns stand for."""
    return Selection(tuple(map(Selector, only)), tuple(map(Selector, skip)))


def pick_nodes(
    nodes: Sequence[_Node],
    selectors: Sequence[str],
    told: Callable[[_Node], tuple[str, Mapping[str, str]]],
) -> list[_Node]:
    """Returns the nodes that a selector picks by name, or as LABEL=GLOB; all without any.

    `told` gives a node's name and labels. Raises MissingError for a selector that picks none.
    """
    if not selectors:
        return list(nodes)
    named = {name: (node, labels) for node in nodes for name, labels in [told(node)]}
    picked: dict[str, _Node] = {}
    for text in selectors:
        label, equals, pattern = text.partition("=")
        fits = Selector(pattern if equals else text)
        found = {
            name: node
            for name, (node, labels) in named.items()
            if fits(labels.get(label, "") if equals else name)
        }
        if not found:
            raise _no_node(text, [*named])
        picked.update(found)
    return list(picked.values())


def pick_names(names: Sequence[str], selectors: Sequence[str]) -> set[str]:
    """Returns the names of nodes that a selector picks; all without any.

    Raises MissingError for a selector that picks none.
    """
    picked: set[str] = set() if selectors else set(names)
    for text in selectors:
        found = set(filter(Selector(text), names))
        if not found:
            raise _no_node(text, names)
        picked |= found
    return picked


def _no_node(text: str, names: Sequence[str]) -> MissingError:
    return MissingError(
        "the selector picks no node",
        actual=text[:200],
        expected=f"one of {len(names)}, such as {', '.join(names[:5])}" if names else "a node",
        remedy="quote the pattern, so that the shell leaves its * alone",
    )
