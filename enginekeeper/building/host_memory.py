"""Whether a build of `trtllm-build` fits into this host's memory: looked at before it is started.

A build that does not fit is killed by the kernel after an hour, with whatever else it picks. Nobody
documents what one takes. What there is are builds reported by others (TensorRT-LLM 0.8 to 1.0): two
to three times a rank's weights, and about 4 GB besides, for each rank that is built at the time.

| build | weights | peak reported | 2 x + 4 GB | 3 x + 4 GB |
|---|---|---|---|---|
| Qwen3-0.6B bf16 | 1.2 GB | 5.8 GB | 6.4 GB | 7.6 GB |
| Qwen2.5-1.5B bf16 | 3.2 GB | 10.1 GB | 10.5 GB | 13.7 GB |
| Qwen1.5-MoE INT4 | 7.6 GB | 18.1 GB | 19.2 GB | 26.8 GB |

Rules:

- below twice the weights of the largest rank the host cannot do it by any report: refused;
- below three times and 4 GB it may not: said, and tried;
- as many ranks may be built at once as there is three times and 4 GB for;
- the memory of a host is what the kernel calls available, within the limit of this control group.

Not measured by us, and the same for every release: no report tells releases apart.

Example:
    check_host_memory(checkpoint, read_host_memory())
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.errors import UnavailableError

_LEAST, _LIKELY = 2, 3
"""Times the weights of the largest rank."""

_BESIDES = 4_000_000_000
_GB = 1e9
_KIB = 1024


@dataclass(frozen=True)
class HostMemory:
    """What a new process could have of this host's memory, in bytes."""

    available: int
    source: str
    """What says so."""


@dataclass(frozen=True)
class MemoryNeed:
    """What a build is expected to take, in bytes, and what there is."""

    weights: int
    """Of the largest rank."""

    least: int
    likely: int
    available: int
    source: str
    ranks: int = 1

    @property
    def workers(self) -> int:
        """Ranks that may be built at once."""
        return max(1, min(self.ranks, self.available // self.likely))

    @property
    def is_tight(self) -> bool:
        """Whether the build may not fit."""
        return self.available < self.likely

    def as_dict(self) -> dict[str, Any]:
        """Returns the estimate as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"a build of {self.weights / _GB:.1f} GB of weights takes {self.least / _GB:.1f} to "
            f"{self.likely / _GB:.1f} GB of host memory (builds reported by others); "
            f"{self.available / _GB:.1f} GB are available ({self.source})"
        )


def check_host_memory(checkpoint: Path, memory: HostMemory) -> MemoryNeed:
    """Returns what a build of a checkpoint takes; raises UnavailableError where it cannot fit."""
    ranks = [path.stat().st_size for path in checkpoint.glob("rank*.safetensors")]
    weights = max(ranks, default=0)
    need = MemoryNeed(
        weights=weights,
        least=_LEAST * weights,
        likely=_LIKELY * weights + _BESIDES,
        available=memory.available,
        source=memory.source,
        ranks=max(1, len(ranks)),
    )
    if need.available < need.least:
        raise UnavailableError(
            "this host has not enough memory for the build",
            where=str(checkpoint),
            actual=f"{need.available / _GB:.1f} GB available ({need.source})",
            expected=f"{need.least / _GB:.1f} GB at the least, {_LEAST} x the "
            f"{weights / _GB:.1f} GB of the largest rank; {need.likely / _GB:.1f} GB to be likely",
            remedy="build on a host with more memory, or with more ranks of fewer weights",
        )
    return need


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """Returns what this process may have; raises UnavailableError where the kernel does not say."""
    whole = _available(root / "proc/meminfo")
    limited = min(_limits(root), key=lambda one: one.available, default=whole)
    return min(whole, limited, key=lambda one: one.available)


def _available(meminfo: Path) -> HostMemory:
    try:
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        size, unit = rows["MemAvailable"].split()
        return HostMemory(int(size) * {"kB": _KIB}[unit], "MemAvailable")
    except (OSError, KeyError, ValueError) as error:
        raise UnavailableError(
            "the kernel does not say how much memory is available",
            where=str(meminfo),
            actual=repr(error)[:200],
            expected="a line MemAvailable",
        ) from error


def _limits(root: Path) -> Iterator[HostMemory]:
    """Yields what is left of the limit of this control group (version 2) and of those above it."""
    try:
        rows = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    path = next((row.removeprefix("0::") for row in rows if row.startswith("0::")), None)
    if path is None:
        return
    top = root / "sys/fs/cgroup"
    group = top / path.lstrip("/")
    for folder in (group, *group.parents):
        if (left := _left_of(folder)) is not None:
            yield HostMemory(left, f"memory.max of {folder.relative_to(root)}")
        if folder == top:
            return


def _left_of(folder: Path) -> int | None:
    """Returns what a control group may still take; None for one without a limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # what files fill is given back when somebody needs it
        return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
