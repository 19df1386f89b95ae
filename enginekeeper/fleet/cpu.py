"""The CPU an engine of the embedded builder is bound to."""

from __future__ import annotations

import platform
from pathlib import Path

# An engine compiled with one of these crashes where it is missing. TorchInductor picks its vector
# instructions by the first ones (torch/_inductor/cpu_vec_isa.py) and compiles with -march=native
# (torch/_inductor/cpp_builder.py), which lets GCC use the others (x86 options of its manual). Flags
# that no compiler uses by itself, such as those of mitigations, change with the kernel and do not
# count.
_RELEVANT = frozenset(
    {
        "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni",
        "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
        "asimd", "sve", "sve2", "bf16",
        "sse4_1", "sse4_2", "ssse3", "sse4a", "popcnt", "movbe", "abm", "bmi1", "bmi2", "adx",
        "avx", "f16c", "fma4", "xop", "tbm", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni",
        "gfni", "avx_vnni", "avx_ifma", "avx_vnni_int8", "avx_ne_convert", "avx512cd",
        "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq",
        "avx512_vp2intersect", "movdiri", "movdir64b",
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
