"""GPUs as NVIDIA's Fleet Intelligence agent writes them down, where it runs already.

`fleetint run --offline-mode --path DIRECTORY --duration … --format csv` leaves in DIRECTORY a file
`fleetint_machine_info_YYYYMMDD_HHMMSS.csv` of attributes and values: driver, CUDA driver API,
product and memory of the node's GPUs, and UUID, bus id, serial number and VBIOS of each.

Rules:

- the newest file counts, and none of more than an hour ago: it is what was so when it was written;
- a file that was written just now may not be whole, and the one before it counts;
- it names no node: what says another driver than the kernel has loaded was written before that, or
  elsewhere; and where others of that hour name none of its GPUs, several nodes write there;
- GPUs come in no order and without an index: they are numbered by bus id, as the driver does;
- the file names the product of one GPU for all, with `-` for spaces, and no compute capability,
  which the table of GPUs has; of a product that is not in it nothing is guessed;
- how a GPU is split (MIG), and who computes on it, it does not say.

Format: NVIDIA/fleet-intelligence-agent 24228fdf, internal/exporter/converter/csv.go
(writeMachineInfoCSV), third_party/fleet-intelligence-sdk/pkg/machine-info/machine_info.go. Read
from its source; no such agent has run here.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.discovery import (
    MOST_GPUS,
    ask_metrics,
    check_driver,
    devices_of_metrics,
    named_product,
    text_of,
)
from enginekeeper.fleet.interface import Device, DriverState, Nvml, Scan
from enginekeeper.specs.gpus import gpu_products

OLDEST_SECONDS = 3600
"""What is older is not believed: a driver may have been exchanged since."""
_YOUNGEST_SECONDS = 2
_NAMES = "fleetint_machine_info_[0-9]*.csv"
_WRITTEN = "what Fleet Intelligence wrote"
_HEADER = ["attribute_name", "attribute_value"]
_FILE_BYTES, _MOST_FILES, _COMPARED = 1024 * 1024, 100_000, 16
_OF_A_GPU = re.compile(r"GPU ([0-9]{1,4}) (UUID|Bus ID|SN|VBIOS Version)")
_QUANTITY = re.compile(r"([0-9]{1,18})([kMGTP]?)")
_NOT_THERE = "not told by NVIDIA Fleet Intelligence"
_UNTOLD = (
    "mig", "gsp_firmware", "ecc", "ecc_errors", "nvlinks", "rows_pending", "rows_failed", "xid",
)  # fmt: skip


@dataclass(frozen=True)
class MachineInfo:
    """Answers in NVML's place from what Fleet Intelligence wrote down."""

    said: Mapping[str, str]
    """Values by the names of attributes."""
    metrics: str | None = None
    """What dcgm-exporter answered; None where it is not asked."""
    simulated: bool = False

    def driver(self) -> DriverState | None:
        """Returns the driver; None on a node without GPUs."""
        version, cuda = (self.said.get(one) for one in ("GPU Driver Version", "CUDA Version"))
        if version and cuda:
            return DriverState(version, cuda)
        if self._gpus():
            raise UnavailableError("Fleet Intelligence names GPUs, and no driver or CUDA version")
        return None

    def scan(self) -> Scan:
        """Returns the GPUs; each by itself where dcgm-exporter tells of them."""
        gpus = self._gpus()
        if not gpus:
            return Scan(())
        product, capability = self._product()
        if self.metrics is not None:
            return devices_of_metrics(self.metrics, capability)
        memory = _bytes(self.said.get("GPU Memory", ""))
        unread = dict.fromkeys(_UNTOLD, _NOT_THERE)
        return Scan(tuple(
            Device(
                index=index, uuid=one["UUID"], product=product, compute_capability=capability,
                memory_bytes=memory, mig=None, vbios=one.get("VBIOS Version") or None,
                serial=one.get("SN") or None, pci=one.get("Bus ID") or None,
                unread={**unread, **_empty(one, memory)},
            )
            for index, one in enumerate(gpus)
        ))  # fmt: skip

    def _gpus(self) -> list[dict[str, str]]:
        """Returns what is said of each GPU, by bus id; raises UnavailableError."""
        found: dict[str, dict[str, str]] = {}
        for name, value in self.said.items():
            if (match := _OF_A_GPU.fullmatch(name)) is not None:
                found.setdefault(match[1], {})[match[2]] = value
        if len(found) > MOST_GPUS or not all(one.get("UUID") for one in found.values()):
            raise UnavailableError(
                "Fleet Intelligence names GPUs that are none",
                actual=f"{len(found)} GPUs, {sum(not one.get('UUID') for one in found.values())} "
                "without a UUID",
                expected=f"at most {MOST_GPUS}, each with its UUID",
            )
        return sorted(found.values(), key=lambda one: (one.get("Bus ID", "").lower(), one["UUID"]))

    def _product(self) -> tuple[str, str]:
        label = self.said.get("GPU Product", "")
        product = named_product(label)
        for one in gpu_products().values():
            if one.product == product:
                return product, str(one.compute_capability)
        raise UnavailableError(
            "Fleet Intelligence names no compute capability, and the product is in no table",
            actual=label[:80] or "no product",
            remedy="let NVML be asked: leave --fleet-intelligence out",
        )


def machine_info_from(
    path: Path,
    metrics: str | None,
    get: Callable[..., str],
    now: Callable[[], float],
    roots: Sequence[Path],
) -> Callable[[], Nvml]:
    """Returns what opens NVML's stand-in: reads the newest file at a path, each time anew.

    Which driver is loaded says the first of the roots that does.
    """

    def opened() -> Nvml:
        told = None if metrics is None else ask_metrics(metrics, get)
        last, *others = recent(path, now())
        said = read_machine_info(last)
        check_driver(said.get("GPU Driver Version"), last, roots)
        _check_alone(said, last, others[: _COMPARED - 1])
        return MachineInfo(said, told)

    return opened


def recent(path: Path, now: float) -> list[Path]:
    """Returns the files that may be believed, newest first: the path, or those of a directory.

    Raises UnavailableError where there is none that is whole and not of more than an hour ago, and
    where there are more than anybody can look at: the newest may be any of them.
    """
    ages = _counted_ages(path, now)
    whole = sorted(
        (one for one, age in ages.items() if age >= _YOUNGEST_SECONDS),
        key=lambda one: (-ages[one], one.name),
        reverse=True,  # of those of one moment, the last by the time in the name
    )
    if not whole:
        raise UnavailableError(
            "Fleet Intelligence has written no machine info",
            where=str(path),
            actual="one that is being written" if ages else "no file",
            expected=_NAMES,
            remedy="fleetint run --offline-mode --path DIRECTORY --duration 00:05:00 --format csv",
        )
    if ages[whole[0]] > OLDEST_SECONDS:
        raise UnavailableError(
            f"{_WRITTEN} is too old to be believed",
            where=str(whole[0]),
            actual=f"{ages[whole[0]] / 60:.0f} minutes old",
            expected=f"at most {OLDEST_SECONDS // 60}",
            remedy="let a timer run it again: fleetint run --offline-mode … --format csv",
        )
    return [one for one in whole if ages[one] <= OLDEST_SECONDS]


def _counted_ages(path: Path, now: float) -> dict[Path, float]:
    """Returns all ages; raises UnavailableError for what cannot be read, and for too many."""
    try:
        ages = dict(islice(_ages(path, now), _MOST_FILES + 1))
    except OSError as error:
        raise UnavailableError(
            f"{_WRITTEN} cannot be read: {error.strerror}", where=str(path)
        ) from error
    if len(ages) > _MOST_FILES:
        raise UnavailableError(
            "Fleet Intelligence has written more than is looked at",
            where=str(path),
            actual=f"more than {_MOST_FILES} files",
            expected=f"at most {_MOST_FILES} of {_NAMES}",
            remedy="remove the old ones",
        )
    return ages


def _ages(path: Path, now: float) -> Iterator[tuple[Path, float]]:
    """Yields files with how many seconds ago they were written; no pipe, whose reader waits."""
    if not path.is_dir():
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            yield path, now - found.st_mtime
        return
    for one in path.iterdir():  # `Path.glob` takes one that cannot be listed for an empty one
        if not fnmatchcase(one.name, _NAMES):
            continue
        with suppress(FileNotFoundError):  # somebody removed it just now
            found = one.stat()
            if stat.S_ISREG(found.st_mode):
                yield one, now - found.st_mtime


def _check_alone(said: Mapping[str, str], file: Path, others: list[Path]) -> None:
    """Raises UnavailableError where others wrote beside a file: it may be another node's."""
    mine = _uuids(said)
    for one in others:
        theirs: set[str] = set()
        with suppress(InputError, UnavailableError):  # only what counts has to be right
            theirs = _uuids(read_machine_info(one))
        if mine and theirs and mine.isdisjoint(theirs):
            raise UnavailableError(
                "Fleet Intelligence of several nodes writes there",
                where=str(file.parent), actual=f"no GPU of {file.name} is in {one.name}",
                expected="a directory for each node",
                remedy="give each node its own --path; after GPUs were exchanged, remove what was "
                "written before",
            )  # fmt: skip


def _uuids(said: Mapping[str, str]) -> set[str]:
    return {
        value
        for name, value in said.items()
        if (match := _OF_A_GPU.fullmatch(name)) is not None and match[2] == "UUID"
    }


def read_machine_info(file: Path) -> dict[str, str]:
    """Returns attributes and values of a file; raises UnavailableError, InputError."""
    text = text_of(file, _FILE_BYTES, _WRITTEN)
    if text is None:
        raise _no_machine_info(file)
    try:
        rows = list(csv.reader(text.splitlines(), strict=True))
    except csv.Error as error:
        raise _no_machine_info(file) from error
    names = [row[0] for row in rows if row]
    if (
        not text.endswith("\n")
        or rows[:1] != [_HEADER]
        or any(len(row) != len(_HEADER) or not "".join(row).isprintable() for row in rows)
        or len(set(names)) != len(names)
    ):
        raise _no_machine_info(file)
    return dict(rows[1:])


def _no_machine_info(file: Path) -> InputError:
    return InputError(
        "not the machine info of Fleet Intelligence",
        where=str(file),
        expected=f"lines of {','.join(_HEADER)}, each attribute once, to the end of the last line",
    )


def _bytes(quantity: str) -> int | None:
    """Reads a quantity of Kubernetes: a number, and a power of a thousand."""
    found = _QUANTITY.fullmatch(quantity)
    return None if found is None else int(found[1]) * 1000 ** "_kMGTP".index(found[2] or "_")


def _empty(one: Mapping[str, str], memory: int | None) -> dict[str, str]:
    """Returns why values are not there that the file has a place for."""
    told = {
        "serial": one.get("SN"), "pci": one.get("Bus ID"), "vbios": one.get("VBIOS Version"),
        "memory_bytes": memory,
    }  # fmt: skip
    return {name: _NOT_THERE for name, value in told.items() if not value}
