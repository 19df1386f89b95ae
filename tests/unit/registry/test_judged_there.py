"""Which of several judgements count in an environment: one answer for the gate and for plans."""

from __future__ import annotations

from dataclasses import dataclass, replace

from registry.environments import DriverScope, Environment, GpuEnvironment, judged_there

H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13.0", "13.0", "580.95.05")
PATCHED = replace(H100, driver="580.95.12")


@dataclass(frozen=True)
class Said:
    """One judgement."""

    environment: Environment


def test_exactly_there_counts_before_what_the_scope_lets_in() -> None:
    newest, exact = Said(PATCHED), Said(H100)
    assert judged_there([newest, exact], H100, DriverScope.PATCH) == [exact]


def test_without_an_exact_one_the_scope_decides_and_keeps_the_order() -> None:
    said = [Said(PATCHED), Said(replace(H100, driver="580.95.20"))]
    assert judged_there(said, H100, DriverScope.PATCH) == said
    assert judged_there(said, H100, DriverScope.EXACT) == []
