"""Rules about the machine: the kind of processor, the operating system, the CPU."""

from __future__ import annotations

from enginekeeper.compatibility.places import Case
from enginekeeper.compatibility.placing import Effect, PlaceRule
from enginekeeper.compatibility.rules import Finding
from registry.environments import CpuEnvironment, GpuEnvironment

_PLATFORMS = "TensorRT support matrix: serialized engines are not portable across platforms"


def _kind(case: Case) -> Finding | None:
    built = "CPU" if "instruction_set" in case.key.hard else "GPU"
    if "gpu_product" not in case.key.hard and built == "GPU":
        return Finding(actual="an engine whose key names no processor", expected="a GPU or CPU")
    offers = "CPU" if isinstance(case.place.environment, CpuEnvironment) else "GPU"
    if built == offers:
        return None
    return Finding(
        actual=f"an engine built for a {built}, a node that offers a {offers}",
        expected=f"a {built}",
    )


def _os(case: Case) -> Finding | None:
    return _field(case, "os", case.place.os)


def _architecture(case: Case) -> Finding | None:
    return _field(case, "cpu_architecture", case.place.cpu_architecture)


def _field(case: Case, name: str, offered: str | None) -> Finding | None:
    built = case.key.hard.get(name)
    if built == offered:
        return None
    return Finding(actual=f"{name} {offered}", expected=f"{name} {built}")


def _cpu_features(case: Case) -> Finding | None:
    environment, flags = case.place.environment, case.key.hard.get("instruction_set")
    if isinstance(environment, GpuEnvironment) or not isinstance(flags, list):
        return None
    missing = sorted({str(flag) for flag in flags} - set(environment.instruction_set))
    if not missing:
        return None
    return Finding(actual=f"a CPU without {', '.join(missing)}", expected="every flag")


def _torch(case: Case) -> Finding | None:
    environment = case.place.environment
    if isinstance(environment, GpuEnvironment) or "instruction_set" not in case.key.hard:
        return None
    built = case.key.hard.get("torch")
    if built == environment.torch:
        return None
    return Finding(actual=f"torch {environment.torch}", expected=f"torch {built}")


MACHINE_RULES = (
    PlaceRule(
        identifier="wrong-kind",
        statement="An engine for a CPU does not run on a GPU, nor the other way round.",
        source="what the builders make",
        effect=Effect.REFUSE,
        predicate=_kind,
    ),
    PlaceRule(
        identifier="host-os",
        statement="An engine loads on the operating system it was built for.",
        source=f"{_PLATFORMS} (Linux, Windows)",
        effect=Effect.REBUILD,
        predicate=_os,
        needs=("os",),
    ),
    PlaceRule(
        identifier="host-architecture",
        statement="An engine loads on the CPU architecture it was built for.",
        source=f"{_PLATFORMS}; Linux x86-64, SBSA and JetPack are platforms of their own",
        effect=Effect.REBUILD,
        predicate=_architecture,
        needs=("cpu_architecture",),
    ),
    PlaceRule(
        identifier="cpu-architecture-features",
        statement="Compiled code needs every CPU flag that it was compiled for.",
        source="torch/_inductor/cpu_vec_isa.py: without one it dies of an illegal instruction",
        effect=Effect.REBUILD,
        predicate=_cpu_features,
    ),
    PlaceRule(
        identifier="torch-version",
        statement="Compiled graphs load into the torch that compiled them.",
        source="the AOTInductor ABI is not promised across releases of torch",
        effect=Effect.REBUILD,
        predicate=_torch,
    ),
)
