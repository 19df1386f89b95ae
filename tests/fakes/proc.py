"""A `/proc` with processes of a test's own choosing: files as the kernel writes them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.fleet.processes import ProcessTable


@dataclass(frozen=True)
class FakeProc:
    """A directory in `/proc`'s place; whoever reads it sits in a pid namespace of it."""

    root: Path
    namespace: str = "pid:[1]"

    def __post_init__(self) -> None:
        self.boot("first")
        (self.root / "self" / "ns").mkdir(parents=True)
        (self.root / "self" / "ns" / "pid").symlink_to(self.namespace)

    @property
    def table(self) -> ProcessTable:
        """Reads it."""
        return ProcessTable(self.root)

    def boot(self, name: str) -> None:
        """Says which boot this is."""
        file = self.root / "sys" / "kernel" / "random" / "boot_id"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}\n")

    def put(
        self, pid: int, *, start: int, parent: int = 1, inner: int | None = None,
        namespace: str | None = None,
    ) -> None:  # fmt: skip
        """Adds a process, or another one with the number of an old one."""
        self.end(pid)
        place = self.root / str(pid)
        (place / "ns").mkdir(parents=True)
        (place / "ns" / "pid").symlink_to(namespace or self.namespace)
        fields = ["S", str(parent), *["0"] * 17, str(start), "0"]
        (place / "stat").write_text(f"{pid} (a (strange) name) {' '.join(fields)}\n")
        numbers = f"{pid}" if inner is None else f"{pid}\t{inner}"
        (place / "status").write_text(f"Name:\tx\nNSpid:\t{numbers}\n")

    def end(self, pid: int) -> None:
        """Ends a process."""
        shutil.rmtree(self.root / str(pid), ignore_errors=True)
