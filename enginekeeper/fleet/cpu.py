"""The CPU an engine of the embedded builder is bound to."""

from __future__ import annotations

import platform
from pathlib import Path

# The flags TorchInductor's code generator looks at when it picks its vector instruction set
# (torch/_inductor/cpu_vec_isa.py); an engine compiled with one of them crashes without it.
_RELEVANT = frozenset(
    {
        "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni",
        "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
        "asimd", "sve", "sve2", "bf16",
    }
)  # fmt: skip


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Returns the sorted instruction-set flags that bind a compiled engine to this CPU."""
    flags: set[str] = set()
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    return tuple(sorted(flags & _RELEVANT))


def host() -> tuple[str, str]:
    """Returns the operating system and CPU architecture, e.g. `("linux", "x86_64")`."""
    return platform.system().lower(), platform.machine()
