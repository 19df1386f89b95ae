"""The form of `data/cuda.json`, strict: imported when the table is read, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM
from enginekeeper.tables import read_table

Version = Annotated[str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$")]
MajorMinor = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]{1,2}$")]
Major = Annotated[str, Field(pattern=r"^[0-9]{1,2}$")]
Month = Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Sources:
    """Who says each part."""

    floors: Text
    toolkits: Text
    branches: Text
    feature_branches: Text
    not_forward_compatible: Text
    forward: Text
    capabilities: Text
    products: Text


@dataclass(frozen=True, kw_only=True, config=FORM)
class ToolkitRow:
    """One release of the toolkit."""

    cuda: MajorMinor
    driver: Version


@dataclass(frozen=True, kw_only=True, config=FORM)
class BranchRow:
    """One driver branch and its end."""

    branch: int
    ended: Literal[True] | None = None
    """Ended on a day that is not known here."""

    last_month: Month | None = None


@dataclass(frozen=True, kw_only=True, config=FORM)
class LowestUnder:
    """What a CUDA major and a driver branch dropped."""

    cuda_major: int
    compute_capability: MajorMinor
    last_branch: int


@dataclass(frozen=True, kw_only=True, config=FORM)
class Capabilities:
    """Which CUDA compiles for which GPUs."""

    first_cuda: dict[MajorMinor, MajorMinor]
    lowest_under: LowestUnder


@dataclass(frozen=True, kw_only=True, config=FORM)
class ProductRow:
    """A product with needs of its own."""

    product: Text
    driver: Version
    no_mig: bool = False


@dataclass(frozen=True, kw_only=True, config=FORM)
class CudaForm:
    """The whole file."""

    sources: Sources
    floors: dict[Major, Version]
    toolkits: tuple[ToolkitRow, ...]
    branches: tuple[BranchRow, ...]
    feature_branches: tuple[int, ...]
    not_forward_compatible: tuple[int, ...]
    capabilities: Capabilities
    products: tuple[ProductRow, ...]


def read_cuda(path: Path) -> CudaForm:
    """Reads the table; raises InputError that names the file, the field and what was expected."""
    return read_table(path, TypeAdapter(CudaForm))
