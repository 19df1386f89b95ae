"""Where an engine is judged and runs: a GPU with its driver, or a CPU.

An engine is qualified in an environment. How far a qualification reaches over driver versions
is a `DriverScope`: the exact version by default, wider only where the operator says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from registry.digests import Digest, digest_bytes, digest_document
from registry.errors import InvalidRecordError


class DriverScope(StrEnum):
    """Which driver versions count as the one an engine was qualified with."""

    EXACT = "exact"
    """The same version, all parts."""

    PATCH = "patch"
    """The same branch and release; `580.95.05` also stands for `580.95.12`."""

    BRANCH = "branch"
    """The same branch; `580.95.05` also stands for `580.126.01`."""


_PARTS = {DriverScope.PATCH: 2, DriverScope.BRANCH: 1}


@dataclass(frozen=True)
class GpuEnvironment:
    """A GPU, the toolchain's CUDA runtime on it, and the driver below."""

    kind: ClassVar[Literal["gpu"]] = "gpu"

    product: str
    """As NVML names it, e.g. `NVIDIA H100 80GB HBM3`."""
    compute_capability: str
    """`major.minor`, e.g. `9.0`."""
    cuda_runtime: str
    """CUDA runtime of the toolchain, `major.minor`."""
    cuda_driver: str
    """CUDA driver API version, `major.minor`."""
    driver: str
    """Driver version, e.g. `580.95.05`."""
    mig_profile: str | None = None
    """MIG profile where the GPU is split."""

    def digest(self) -> Digest:
        """Names the environment."""
        return _digest(self)

    def as_dict(self) -> dict[str, Any]:
        """Returns the environment as a JSON object with its kind."""
        return _as_dict(self)

    def __str__(self) -> str:
        """Returns one line for a person."""
        mig = f" {self.mig_profile}" if self.mig_profile else ""
        return f"{self.product}{mig}, CUDA {self.cuda_runtime}, driver {self.driver}"


@dataclass(frozen=True)
class CpuEnvironment:
    """A CPU by the instruction-set flags compiled code depends on, and the torch that runs it."""

    kind: ClassVar[Literal["cpu"]] = "cpu"

    instruction_set: tuple[str, ...]
    """Sorted flags, e.g. `("avx2", "avx512f")`."""
    torch: str
    """Version of torch that loads the engine."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "instruction_set", tuple(sorted(set(self.instruction_set))))

    def digest(self) -> Digest:
        """Names the environment."""
        return _digest(self)

    def as_dict(self) -> dict[str, Any]:
        """Returns the environment as a JSON object with its kind."""
        return _as_dict(self)

    def __str__(self) -> str:
        """Returns one line for a person; many flags are counted and named by a digest."""
        flags = " ".join(self.instruction_set) or "(no flags)"
        if len(self.instruction_set) > _FEW:
            name = digest_bytes(flags.encode()).short
            flags = f"with {len(self.instruction_set)} instruction-set flags ({name})"
        return f"CPU {flags}, torch {self.torch}"


_FEW = 8
"""Flags that a line has room for."""

Environment = GpuEnvironment | CpuEnvironment
"""What an engine is qualified in."""

_KINDS: Mapping[object, type[GpuEnvironment | CpuEnvironment]] = {
    GpuEnvironment.kind: GpuEnvironment,
    CpuEnvironment.kind: CpuEnvironment,
}


def environment_from_dict(document: Mapping[str, Any]) -> Environment:
    """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
    fields = dict(document)
    kind = fields.pop("kind", None)
    if isinstance(flags := fields.get("instruction_set"), str):
        raise InvalidRecordError(
            "not a list of flags", where="environment: instruction_set", actual=flags,
            expected='a list, such as ["avx2"]',
        )  # fmt: skip
    try:
        if kind == CpuEnvironment.kind:
            fields["instruction_set"] = tuple(fields["instruction_set"])
        environment: Environment = _KINDS[kind](**fields)
    except (TypeError, KeyError) as error:
        raise InvalidRecordError(
            f"not an environment: {error}",
            actual=dict(document),
            expected="a `gpu` or `cpu` environment with its fields",
        ) from error
    _check_text(environment)
    return environment


def covers(qualified: Environment, asked: Environment, scope: DriverScope) -> bool:
    """Says whether a qualification in one environment holds in another, under a driver scope."""
    if isinstance(qualified, GpuEnvironment) and isinstance(asked, GpuEnvironment):
        same_driver = _within(qualified.driver, asked.driver, scope)
        return same_driver and replace(qualified, driver=asked.driver) == asked
    return qualified == asked


class Judged(Protocol):
    """What somebody said of an engine in an environment."""

    @property
    def environment(self) -> Environment:
        """Where it was judged."""


Said = TypeVar("Said", bound=Judged)


def judged_there(said: Sequence[Said], asked: Environment, scope: DriverScope) -> list[Said]:
    """Returns what counts in an environment, in its order.

    That is what was said of exactly this one; where there is none, what the driver scope lets in.
    """
    exact = [one for one in said if one.environment == asked]
    if scope is DriverScope.EXACT:
        return exact
    return exact or [one for one in said if covers(one.environment, asked, scope)]


def _within(a: str, b: str, scope: DriverScope) -> bool:
    if scope is DriverScope.EXACT:
        return a == b
    parts = _PARTS[scope]
    return a.split(".")[:parts] == b.split(".")[:parts]


def _digest(environment: Environment) -> Digest:
    return digest_document(environment.as_dict(), "ek-environment-v1")


def _as_dict(environment: Environment) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(environment).items() if value is not None}
    if isinstance(environment, CpuEnvironment):
        fields["instruction_set"] = list(environment.instruction_set)
    return {"kind": environment.kind, **fields}


def _check_text(environment: Environment) -> None:
    for name, value in vars(environment).items():
        items = value if isinstance(value, tuple) else (value,)
        if not all(
            isinstance(item, str) or (item is None and name == "mig_profile") for item in items
        ):
            raise InvalidRecordError(
                "not text", where=f"environment: {name}", actual=repr(value), expected="text"
            )
