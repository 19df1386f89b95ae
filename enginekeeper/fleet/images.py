"""Names of container images, and whether what runs is what was named.

Rules:

- a digest compares by digest, whatever the repository and the tag beside it: they are names, and
  the digest is the image;
- a name without a digest compares by text up to the `@`: `x` and `x:latest` are two, nothing is
  asked of a registry, and a tag that was pushed again is not seen;
- where one side has what the other lacks, it cannot be told: a digest was named and a tag runs, or
  a tag was named and a digest alone runs.

The grammar is that of Docker references; only sha256 is a digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from enginekeeper.errors import InputError

_LONGEST = 500
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?P<repository>(?:{_HOST}/)?{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


class Fit(StrEnum):
    """How what runs stands to the image that was named."""

    SAME = "same"
    OTHER = "other"
    UNTOLD = "untold"
    """It cannot be told."""


@dataclass(frozen=True)
class ImageName:
    """An image that somebody named: REPOSITORY[:TAG][@sha256:DIGEST]."""

    text: str
    repository: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str, *, where: str = "container") -> ImageName:
        """Reads a name; raises InputError."""
        found = _NAME.fullmatch(text) if len(text) <= _LONGEST else None
        if found is None:
            raise InputError(
                "not the name of a container image",
                where=where, actual=ascii(text)[:200],
                expected="REPOSITORY[:TAG][@sha256:DIGEST], the repository in small letters",
            )  # fmt: skip
        return cls(text, found["repository"], found["tag"], found["digest"])

    def fit(self, actual: str | None) -> tuple[Fit, str]:
        """Says how an image that a start named stands to this one, and by what that is known."""
        if actual is None:
            return Fit.UNTOLD, "cannot be told: its start named no image"
        named, _, digest = actual.partition("@")
        if self.digest is not None:
            if not digest:
                return Fit.UNTOLD, "cannot be told: its start named no digest"
            return (Fit.SAME if digest == self.digest else Fit.OTHER), "by digest"
        if self.tag is not None and digest and named == self.repository:
            return Fit.UNTOLD, "cannot be told: its start named no tag"
        return (Fit.SAME if named == self.text else Fit.OTHER), "by text"
