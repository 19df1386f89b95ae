"""Where an engine is to run, with all that is known of it, and what of a plan can move.

What is not known is None. A rule that needs it is then not checked, and named as unchecked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from registry.environments import Environment
from registry.keys import EngineKey


@dataclass(frozen=True)
class Place:
    """An environment, and what surrounds it."""

    environment: Environment
    os: str | None = None
    """Operating system, e.g. `linux`."""
    cpu_architecture: str | None = None
    """E.g. `x86_64`."""
    tensorrt: str | None = None
    """Version of the TensorRT that would load the engine."""
    tensorrt_llm: str | None = None
    cuda_compat: str | None = None
    """CUDA version of an installed `cuda-compat` package, `major.minor`."""
    vbios: str | None = None
    gsp_firmware: str | None = None
    container: str | None = None
    """Digest of the container image."""
    on: date | None = None
    """The day that is asked about: driver branches end."""


ASKED_HERE = frozenset({"environment", "os", "cpu_architecture", "on"})
"""What of a place a wave or the gate can fill in today; the rest only a case says."""


class HardwareLevel(StrEnum):
    """What a plan was built to run on: TensorRT's HardwareCompatibilityLevel."""

    NONE = "none"
    """GPUs of the product it was built on: what TensorRT-LLM builds."""

    AMPERE_PLUS = "ampere_plus"
    """Every GPU of compute capability 8.0 or newer."""

    SAME_COMPUTE_CAPABILITY = "same_compute_capability"
    """Every GPU of the same compute capability."""


@dataclass(frozen=True)
class Portability:
    """What a plan was built to move between; by default nothing, as TensorRT-LLM builds it."""

    hardware: HardwareLevel = HardwareLevel.NONE
    versions: bool = False
    """Built with VERSION_COMPATIBLE: a newer TensorRT may load it."""


BOUND = Portability()


@dataclass(frozen=True)
class Case:
    """One question to the rules: may an engine of this key work in this place?"""

    key: EngineKey
    place: Place
    portability: Portability = BOUND
