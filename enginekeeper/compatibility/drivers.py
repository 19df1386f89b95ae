"""Rules about CUDA and the driver below it; the facts are in `cuda`."""

from __future__ import annotations

from collections.abc import Callable

from enginekeeper.compatibility.cuda import (
    cuda_table,
    driver_floor,
    toolkit_driver,
)
from enginekeeper.compatibility.places import Case
from enginekeeper.compatibility.placing import Effect, PlaceRule
from enginekeeper.compatibility.plans import capability
from enginekeeper.compatibility.rules import Finding
from enginekeeper.compatibility.versions import has_minor, major, older, readable
from enginekeeper.specs.gpus import gpu_products
from registry.environments import GpuEnvironment

_DATA_CENTER_FORMS = frozenset({"sxm", "pcie", "superchip"})
_DROPS_CUDA_11 = "10.13.2"

_FLOORS = ", ".join(
    f"CUDA {cuda}.x needs R{driver} or newer"
    for cuda, driver in sorted(cuda_table().floors.items(), reverse=True)
)
RUNS_CUDA = f"A CUDA major needs a driver: {_FLOORS}."
"""What `driver-runs-cuda` says, of a build's target and of an engine's place."""


def below_floor(driver: str, cuda: str) -> bool:
    """Says whether a driver is too old for every toolkit of a CUDA version's major."""
    floor = driver_floor(cuda)
    return floor is not None and older(driver, floor)


def _gpu(case: Case) -> GpuEnvironment | None:
    """Returns the GPU, if its versions can be compared; `versions-readable` tells the others."""
    environment = case.place.environment
    if not isinstance(environment, GpuEnvironment) or _unreadable(environment):
        return None
    return environment


def _unreadable(environment: GpuEnvironment) -> dict[str, str]:
    fields = {
        "driver": environment.driver,
        "cuda_driver": environment.cuda_driver,
        "cuda_runtime": environment.cuda_runtime,
    }
    wrong = {name: value for name, value in fields.items() if not readable(value)}
    if capability(environment.compute_capability) is None:
        wrong["compute_capability"] = environment.compute_capability
    return wrong


def _readable(case: Case) -> Finding | None:
    environment = case.place.environment
    if not isinstance(environment, GpuEnvironment) or not (wrong := _unreadable(environment)):
        return None
    said = ", ".join(f"{name} {value!r}" for name, value in wrong.items())
    return Finding(actual=said, expected="numbers joined by dots")


def _too_old(gpu: GpuEnvironment) -> bool:
    """Says whether driver and runtime need a compat package to work together."""
    newer_major = major(gpu.cuda_driver) < major(gpu.cuda_runtime)
    return newer_major or below_floor(gpu.driver, gpu.cuda_runtime)


def _bridged(case: Case, gpu: GpuEnvironment) -> bool:
    """Says whether a compat package for this runtime is installed, usable or not."""
    compat = case.place.cuda_compat
    return compat is not None and readable(compat) and not older(compat, gpu.cuda_runtime)


def _runs_cuda(case: Case) -> Finding | None:
    gpu = _gpu(case)
    if gpu is None or not _too_old(gpu) or _bridged(case, gpu):
        return None
    return Finding(
        actual=f"driver {gpu.driver} (CUDA {gpu.cuda_driver})",
        expected=f"R{driver_floor(gpu.cuda_runtime)} or newer for CUDA {gpu.cuda_runtime}",
        remedy="update the driver, or use a toolchain with an older CUDA",
    )


def _forward(case: Case) -> Finding | None:
    gpu = _gpu(case)
    if gpu is None or not _too_old(gpu) or not _bridged(case, gpu):
        return None
    if major(gpu.driver) in cuda_table().not_forward_compatible:
        found, expected = f"driver {gpu.driver}", "a branch that is forward compatible"
    elif not _in_data_center(gpu.product):
        found, expected = gpu.product, "a data-center GPU"
    else:
        return None
    return Finding(actual=found, expected=expected, remedy="update the driver")


def _forward_used(case: Case) -> Finding | None:
    gpu = _gpu(case)
    bridged = gpu is not None and _too_old(gpu) and _bridged(case, gpu)
    if gpu is None or not bridged or _forward(case) is not None:
        return None
    found = f"driver {gpu.driver} with cuda-compat {case.place.cuda_compat}"
    return Finding(actual=found, expected=f"a driver of CUDA {gpu.cuda_runtime}")


def _in_data_center(product: str) -> bool:
    forms = {row.product: row.form for row in gpu_products().values()}
    return forms.get(product) in _DATA_CENTER_FORMS


def _minor(case: Case) -> Finding | None:
    gpu = _gpu(case)
    own = None if gpu is None else toolkit_driver(gpu.cuda_runtime)
    if gpu is None or own is None or _too_old(gpu) or not older(gpu.driver, own):
        return None
    return Finding(
        actual=f"driver {gpu.driver}", expected=f"{own}, that of CUDA {gpu.cuda_runtime}"
    )


def _toolkit_drops(case: Case) -> Finding | None:
    gpu, table = _gpu(case), cuda_table()
    if gpu is None or major(gpu.cuda_runtime) < table.dropped_by_major:
        return None
    return _below_lowest(gpu, f"{table.lowest} or newer under CUDA {table.dropped_by_major}")


def _driver_drops(case: Case) -> Finding | None:
    gpu, table = _gpu(case), cuda_table()
    if gpu is None or major(gpu.driver) <= table.last_branch:
        return None
    return _below_lowest(gpu, f"a driver up to R{table.last_branch}")


def _below_lowest(gpu: GpuEnvironment, expected: str) -> Finding | None:
    offered = capability(gpu.compute_capability)
    if offered is None or offered >= cuda_table().lowest:
        return None
    return Finding(
        actual=f"{gpu.product}, {offered}, driver {gpu.driver}, CUDA {gpu.cuda_runtime}",
        expected=expected,
    )


def _first_cuda(case: Case) -> Finding | None:
    gpu = _gpu(case)
    offered = None if gpu is None else capability(gpu.compute_capability)
    first = None if offered is None else cuda_table().first_cuda.get(offered)
    if gpu is None or first is None:
        return None
    if not older(gpu.cuda_runtime, first if has_minor(gpu.cuda_runtime) else str(major(first))):
        return None
    return Finding(actual=f"CUDA {gpu.cuda_runtime}", expected=f"{first} or newer for {offered}")


def _product_driver(case: Case) -> Finding | None:
    gpu = _gpu(case)
    lowest = None if gpu is None else cuda_table().product_drivers.get(gpu.product)
    if gpu is None or lowest is None or not older(gpu.driver, lowest):
        return None
    return Finding(actual=f"driver {gpu.driver}", expected=f"{lowest} or newer for {gpu.product}")


def _no_mig(case: Case) -> Finding | None:
    gpu = _gpu(case)
    if gpu is None or gpu.mig_profile is None:
        return None
    if gpu.product not in cuda_table().products_without_mig:
        return None
    return Finding(actual=f"{gpu.product}, {gpu.mig_profile}", expected="the whole GPU")


def _tensorrt_drops(case: Case) -> Finding | None:
    gpu, built = _gpu(case), case.key.hard.get("tensorrt")
    if gpu is None or not readable(built) or older(str(built), _DROPS_CUDA_11):
        return None
    if major(gpu.cuda_runtime) > 11:  # noqa: PLR2004 - the CUDA major of the statement
        return None
    return Finding(actual=f"TensorRT {built} on CUDA {gpu.cuda_runtime}", expected="CUDA 12 or 13")


def _ended(case: Case) -> Finding | None:
    gpu, ends = _gpu(case), cuda_table().ends
    if gpu is None or case.place.on is None or (branch := major(gpu.driver)) not in ends:
        return None
    end = ends[branch]
    if end is not None and case.place.on <= end:
        return None
    return Finding(
        actual=f"driver {gpu.driver}, R{branch}" + (f", ended {end}" if end else ", ended"),
        expected="a branch that gets security updates",
        remedy="plan the move to an LTS or production branch: ek wave plan",
    )


def _short_lived(case: Case) -> Finding | None:
    gpu = _gpu(case)
    if gpu is None or major(gpu.driver) not in cuda_table().feature_branches:
        return None
    found = f"driver {gpu.driver}, a new feature branch"
    return Finding(actual=found, expected="an LTS or production branch")


def _soft(name: str) -> Callable[[Case], Finding | None]:
    def predicate(case: Case) -> Finding | None:
        built, offered = case.key.soft.get(name), getattr(case.place, name)
        if _gpu(case) is None or built is None or built == offered:
            return None
        return Finding(actual=f"{name} {offered}", expected=f"{name} {built}, as at the build")

    return predicate


def _sources(name: str) -> str:
    return cuda_table().sources[name]


_FORWARD_USED = "A cuda-compat package carries a runtime of a newer CUDA major on an older driver."

DRIVER_RULES = (
    PlaceRule(
        identifier="versions-readable",
        statement="Versions that cannot be compared decide nothing in an engine's favour.",
        source="versions are compared number by number",
        effect=Effect.REFUSE,
        predicate=_readable,
    ),
    PlaceRule(
        identifier="driver-runs-cuda",
        statement=RUNS_CUDA,
        source=_sources("floors"),
        effect=Effect.REFUSE,
        predicate=_runs_cuda,
    ),
    PlaceRule(
        identifier="forward-compatibility",
        statement="Forward compatibility is for data-center GPUs on some driver branches only.",
        source=f"{_sources('forward')}; {_sources('not_forward_compatible')}",
        effect=Effect.REFUSE,
        predicate=_forward,
        needs=("cuda_compat",),
    ),
    PlaceRule(
        identifier="forward-compatibility-used",
        statement=_FORWARD_USED,
        source=_sources("forward"),
        effect=Effect.NOTE,
        predicate=_forward_used,
        needs=("cuda_compat",),
    ),
    PlaceRule(
        identifier="cuda-minor-compatibility",
        statement="A driver older than its toolkit's own runs it with a limited feature set.",
        source=f"{_sources('floors')}; {_sources('toolkits')}",
        effect=Effect.NOTE,
        predicate=_minor,
    ),
    PlaceRule(
        identifier="toolkit-drops-gpu",
        statement="CUDA 13 compiles for Turing (7.5) and newer only.",
        source=_sources("capabilities"),
        effect=Effect.REFUSE,
        predicate=_toolkit_drops,
    ),
    PlaceRule(
        identifier="driver-drops-gpu",
        statement="R580 is the last driver branch for Maxwell, Pascal and Volta.",
        source=_sources("capabilities"),
        effect=Effect.REFUSE,
        predicate=_driver_drops,
    ),
    PlaceRule(
        identifier="gpu-needs-cuda",
        statement="A compute capability needs the first CUDA that compiles for it.",
        source=_sources("capabilities"),
        effect=Effect.REFUSE,
        predicate=_first_cuda,
    ),
    PlaceRule(
        identifier="gpu-needs-driver",
        statement="Some products need a newer driver than their CUDA does.",
        source=_sources("products"),
        effect=Effect.REFUSE,
        predicate=_product_driver,
    ),
    PlaceRule(
        identifier="product-without-mig",
        statement="The GPU Operator names no MIG for this product.",
        source=_sources("products"),
        effect=Effect.NOTE,
        predicate=_no_mig,
    ),
    PlaceRule(
        identifier="tensorrt-drops-cuda-11",
        statement="TensorRT 10.13.2 and newer has no build for CUDA 11.",
        source="TensorRT 10.13.2 release notes",
        effect=Effect.REFUSE,
        predicate=_tensorrt_drops,
    ),
    PlaceRule(
        identifier="driver-branch-ended",
        statement="A driver branch past its end of life gets no security updates.",
        source=_sources("branches"),
        effect=Effect.NOTE,
        predicate=_ended,
        needs=("on",),
    ),
    PlaceRule(
        identifier="driver-branch-short-lived",
        statement="New feature branches of the driver are short-lived.",
        source=_sources("feature_branches"),
        effect=Effect.NOTE,
        predicate=_short_lived,
    ),
    *(
        PlaceRule(
            identifier=f"{name.replace('_', '-')}-differs",
            statement=f"A verdict does not say under which {words} it was given.",
            source="registry/environments.py: a qualification holds driver, CUDA and product",
            effect=Effect.NOTE,
            predicate=_soft(name),
            needs=(name,),
        )
        for name, words in (
            ("vbios", "VBIOS"), ("gsp_firmware", "GSP firmware"), ("container", "container")
        )
    ),
)  # fmt: skip
