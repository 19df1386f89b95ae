"""The CPU an engine is bound to."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.fleet.cpu import instruction_set


def test_only_flags_that_bind_an_engine_count(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 avx512f amx_tile hypervisor\n")
    assert instruction_set(cpuinfo) == ("amx_tile", "avx2", "avx512f")


def test_a_host_without_cpuinfo_has_no_flags(tmp_path: Path) -> None:
    assert instruction_set(tmp_path / "absent") == ()
