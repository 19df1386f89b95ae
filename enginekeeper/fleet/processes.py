"""The processes of this machine, as far as it must be known which one is which.

A number alone names no process: it is given out again. With the time it started, in clock ticks
since the boot, and the boot's id it names one and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEAD = frozenset("ZXx")  # proc(5): zombie, dead


@dataclass(frozen=True)
class ProcessTable:
    """What `/proc` says; whatever cannot be read is None, as for a process that ended."""

    root: Path = Path("/proc")

    def boot_id(self) -> str | None:
        """Returns the id of this boot."""
        try:
            return (self.root / "sys/kernel/random/boot_id").read_text().strip() or None
        except OSError:
            return None

    def start_time(self, pid: int) -> int | None:
        """Returns when a process started, in ticks since the boot; None for one that ended."""
        fields = self._stat(pid)
        return None if fields is None else int(fields[19])

    def lineage(self, pid: int) -> Iterator[int]:
        """Yields a process, its parent and so on up to the first one."""
        seen: set[int] = set()
        while pid > 0 and pid not in seen:
            fields = self._stat(pid)
            if fields is None:
                return
            seen.add(pid)
            yield pid
            pid = int(fields[1])

    def namespace(self, pid: int | None = None) -> str | None:
        """Names the pid namespace of a process, this one's if none is given."""
        try:
            return str((self.root / ("self" if pid is None else str(pid)) / "ns/pid").readlink())
        except OSError:
            return None

    def inner_pid(self, pid: int) -> int | None:
        """Returns the number that a process has in its own container; the same without one."""
        try:
            lines = (self.root / str(pid) / "status").read_text(errors="replace").splitlines()
            numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
            return int(numbers[-1])
        except (OSError, StopIteration, IndexError, ValueError):
            return None

    def all(self) -> Iterator[int]:
        """Yields every process that is seen from here."""
        try:
            names = [path.name for path in self.root.iterdir()]
        except OSError:
            return
        yield from (int(name) for name in names if name.isdecimal())

    def _stat(self, pid: int) -> list[str] | None:
        """Returns the fields of `stat` from the state on, which follows the command's name."""
        try:
            text = (self.root / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        enough = len(fields) > 19 and fields[1].isdecimal() and fields[19].isdecimal()  # noqa: PLR2004 - starttime, field 22 of proc(5)
        return fields if enough and fields[0] not in _DEAD else None
