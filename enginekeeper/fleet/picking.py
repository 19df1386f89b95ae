"""Selectors of nodes by what they are: `pool=h100-*,zone={a,b}`, `gpu=*H100*`, `*`.

Rules:

- terms joined by commas must all hold; each is LABEL=GLOB, with braces as everywhere;
- `gpu` is the product of any GPU of the node, `simulated` is how the node was enrolled;
- `*` alone picks every node;
- names of nodes are not asked: what should run where must not change when a node is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from enginekeeper.errors import InputError
from enginekeeper.fleet.profiles import Profile
from enginekeeper.specs.selectors import Selector

_LONGEST = 500
_ALL = "*"
_OURS = frozenset({"gpu", "simulated"})
_GLOB = frozenset("*?[]{}")


@dataclass(frozen=True)
class NodeSelector:
    """One selector; calling it with a profile says whether it picks such nodes."""

    text: str
    terms: tuple[tuple[str, Selector], ...]

    @classmethod
    def parse(cls, text: str, *, where: str = "selector") -> NodeSelector:
        """Reads a selector; raises InputError."""
        if text == _ALL:
            return cls(text, ())
        if not text or len(text) > _LONGEST or not text.isprintable():
            raise _unusable(text, where)
        terms = []
        for piece in _pieces(text):
            label, equals, pattern = piece.partition("=")
            if not (label.strip() and equals and pattern):
                raise _unusable(text, where)
            terms.append((label.strip(), Selector(pattern)))
        return cls(text, tuple(terms))

    def __call__(self, profile: Profile) -> bool:
        """Says whether nodes of a profile are picked."""
        return all(
            any(pattern(value) for value in _values(profile, label))
            for label, pattern in self.terms
        )

    @property
    def exact(self) -> tuple[str, str] | None:
        """The first term that names one value of a label, which others can be found by."""
        for label, pattern in self.terms:
            if label not in _OURS and not _GLOB & set(pattern.pattern):
                return label, pattern.pattern
        return None


class Picking:
    """Many selectors, of which those that pick a profile are found without asking all of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_label: dict[tuple[str, str], list[NodeSelector]] = {}
        self._others: list[NodeSelector] = []
        for one in map(selector, dict.fromkeys(texts)):
            found = one.exact
            of = self._others if found is None else self._by_label.setdefault(found, [])
            of.append(one)

    def picking(self, profile: Profile) -> Iterator[str]:
        """Yields the texts of the selectors that pick a profile."""
        near = [one for item in profile.labels.items() for one in self._by_label.get(item, ())]
        return (one.text for one in (*near, *self._others) if one(profile))


@lru_cache(maxsize=4096)
def selector(text: str) -> NodeSelector:
    """Returns the selector of a text that was checked when it was recorded."""
    return NodeSelector.parse(text)


def _values(profile: Profile, label: str) -> tuple[str, ...]:
    if label == "gpu":
        return tuple(one.product for one in profile.kinds)
    if label == "simulated":
        return ("true" if profile.simulated else "false",)
    labels: Mapping[str, str] = profile.labels
    return (labels[label],) if label in labels else ()


def _pieces(text: str) -> list[str]:
    """Splits at commas that no braces hold."""
    pieces, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0:
            pieces.append(text[start:at])
            start = at + 1
    return [*pieces, text[start:]]


def _unusable(text: str, where: str) -> InputError:
    return InputError(
        "not a selector of nodes",
        where=where, actual=ascii(text)[:200],
        expected="LABEL=GLOB, several joined by commas, such as pool=h100-*; gpu=GLOB; or *",
    )  # fmt: skip
