"""What NVIDIA says of CUDA toolkits, drivers and their branches: one table, and questions to it.

The table is `data/cuda.json`, with the source of each part. A version that is not in the table
is not known: the answer is None, never a guess.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path

from enginekeeper.compatibility.versions import has_minor, major, same
from enginekeeper.specs.gpus import ComputeCapability

_TABLE = Path(__file__).with_name("data") / "cuda.json"
_MINOR = 2  # numbers of a CUDA version that name its API: `12.8` of `12.8.1`


@dataclass(frozen=True)
class Toolkit:
    """One release of the CUDA toolkit, and the driver that was shipped with it."""

    cuda: str
    """`major.minor`."""
    driver: str


@dataclass(frozen=True)
class CudaTable:
    """The whole table, read once."""

    sources: dict[str, str]
    floors: dict[int, str]
    """CUDA major to the oldest driver that runs it: minor version compatibility."""
    toolkits: tuple[Toolkit, ...]
    ends: dict[int, date | None]
    """Driver branch to its last day; None for one that has ended, on a day not known here."""
    feature_branches: frozenset[int]
    not_forward_compatible: frozenset[int]
    first_cuda: dict[ComputeCapability, str]
    dropped_by_major: int
    """CUDA major that dropped the capabilities below `lowest`."""
    lowest: ComputeCapability
    last_branch: int
    """Last driver branch for the capabilities below `lowest`."""
    product_drivers: dict[str, str]
    """Product, as NVML names it, to its oldest driver."""
    products_without_mig: frozenset[str]


@cache
def cuda_table() -> CudaTable:
    """Returns the table."""
    return read_table_at(_TABLE)


def read_table_at(path: Path) -> CudaTable:
    """Reads a table of this form; raises InputError that names the field that is wrong."""
    # pydantic is not for those who only import the rules
    from enginekeeper.compatibility.cuda_form import read_cuda  # noqa: PLC0415

    table = read_cuda(path)
    lowest = table.capabilities.lowest_under
    return CudaTable(
        sources=asdict(table.sources),
        floors={int(cuda): driver for cuda, driver in table.floors.items()},
        toolkits=tuple(Toolkit(row.cuda, row.driver) for row in table.toolkits),
        ends={row.branch: _last_day(row.last_month) for row in table.branches},
        feature_branches=frozenset(table.feature_branches),
        not_forward_compatible=frozenset(table.not_forward_compatible),
        first_cuda={
            ComputeCapability.parse(text): cuda
            for text, cuda in table.capabilities.first_cuda.items()
        },
        dropped_by_major=lowest.cuda_major,
        lowest=ComputeCapability.parse(lowest.compute_capability),
        last_branch=lowest.last_branch,
        product_drivers={row.product: row.driver for row in table.products},
        products_without_mig=frozenset(row.product for row in table.products if row.no_mig),
    )


def _last_day(month: str | None) -> date | None:
    if month is None:
        return None
    year, number = map(int, month.split("-"))
    return date(year, number, monthrange(year, number)[1])


def driver_floor(cuda: str) -> str | None:
    """Returns the oldest driver that runs any toolkit of a CUDA version's major."""
    return cuda_table().floors.get(major(cuda))


def toolkit_driver(cuda: str) -> str | None:
    """Returns the driver that the first release of a CUDA version was shipped with.

    None, too, for a version whose minor is not known.
    """
    if not has_minor(cuda):
        return None
    wanted = ".".join(cuda.split(".")[:_MINOR])
    found = (one.driver for one in cuda_table().toolkits if same(one.cuda, wanted))
    return next(found, None)


def cuda_of_driver(driver: str) -> str | None:
    """Returns the CUDA driver API that a driver's branch offers, `major.minor`."""
    branch = major(driver)
    found = (one.cuda for one in cuda_table().toolkits if major(one.driver) == branch)
    return next(found, None)
