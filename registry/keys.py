"""The engine key: what an engine was built from and for, in three layers.

Rules:

- **hard** fields differ → another engine is needed: refuse or rebuild;
- **soft** fields differ → the same engine must be validated again, not rebuilt;
- **info** fields are recorded and never compared for a decision;
- the key digest is taken over the hard layer alone; a field that does not apply is absent,
  and None means absent;
- a key keeps its digest for ever: its scheme is the first that knows all of its hard fields, so
  that what was signed before a field was added still verifies, and never equals a newer key;
- hard and soft values are text, whole numbers, booleans, lists and objects of these. Fractions
  are text: `1.0` and `1` are the same number to a database and different bytes to a digest.

Example:
    >>> key = EngineKey.of(builder="inductor", weights="sha256:…", recipe="w8a16", torch="2.13.0")
    >>> key.hard["torch"], str(key.digest())[:10]
    ('2.13.0', 'ek-key-v1:')
    >>> key = EngineKey.of(**key.hard, builder_lock="sha256:…")
    >>> str(key.digest())[:10]
    'ek-key-v2:'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from registry.digests import Digest, canonical_json, digest_document
from registry.environments import (
    CpuEnvironment,
    DriverScope,
    Environment,
    GpuEnvironment,
    covers,
    environment_from_dict,
)
from registry.errors import InvalidRecordError

__all__ = [
    "HARD_FIELDS", "SCHEMES", "SIMULATED_BUILDERS", "SOFT_FIELDS", "CpuEnvironment",
    "DriverScope", "EngineKey", "Environment", "FieldDifference", "GpuEnvironment",
    "Layer", "compare", "covers", "environment_from_dict",
]  # fmt: skip

SCHEMES = ("ek-key-v1", "ek-key-v2")
"""Each names a set of hard fields and how they are hashed; a change of either is a new name."""

_SINCE_V2 = frozenset(
    {"quantizer_lock", "quantizer_code", "repair_code", "builder_lock", "builder_code"}
)
"""Hard fields that `ek-key-v1` does not know."""


SIMULATED_BUILDERS = frozenset({"simulated", "simulated_pytorch"})
"""Builders that are doubles, as keys name them: what they make is simulated."""


class Layer(StrEnum):
    """What a difference in a field means."""

    HARD = "hard"
    SOFT = "soft"
    INFO = "info"


HARD_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "builder": "builder kind: tensorrt_llm, trtllm_pytorch, inductor, simulated, "
        "simulated_pytorch or vllm",
        "weights": "digest of the source weights",
        "recipe": "quantization recipe, KV cache type included",
        "calibration": "digest of what calibrated the recipe: data, size, seed",
        "quantizer": "what quantized, with its version, e.g. `modelopt 0.47.0`",
        "quantizer_lock": "digest of the lock file of the toolchain that quantized",
        "quantizer_code": "digest of the code of the step that quantized",
        "repairs": "whether known export defects are repaired: auto or off",
        "repair_code": "digest of the code that repairs, where it may",
        "builder_lock": "digest of the lock file of the toolchain that built",
        "builder_code": "digest of the code of the step that built",
        "build_config": "digest of the build config as requested",
        "tensor_parallel": "ranks a layer is split over",
        "pipeline_parallel": "ranks the layers are spread over",
        "tensorrt_llm": "TensorRT-LLM version",
        "tensorrt": "TensorRT version, all four parts",
        "compute_capability": "e.g. `9.0`",
        "gpu_product": "GPU product as NVML names it",
        "mig_profile": "MIG profile, where the GPU is split",
        "cuda_runtime": "CUDA runtime of the toolchain, `major.minor`",
        "os": "operating system, e.g. `linux`",
        "cpu_architecture": "e.g. `x86_64`",
        "instruction_set": "CPU flags the compiled code uses (inductor)",
        "torch": "torch version (inductor)",
    }
)
"""Every hard field: a name that is not here is refused, so that a misspelling is no silent miss."""

SOFT_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "driver": "GPU driver version",
        "cuda_driver": "CUDA driver API version",
        "vbios": "VBIOS version",
        "gsp_firmware": "GSP firmware version",
        "container": "digest of the container image",
    }
)

_KNOWN: Mapping[Layer, Mapping[str, str]] = {Layer.HARD: HARD_FIELDS, Layer.SOFT: SOFT_FIELDS}


@dataclass(frozen=True)
class FieldDifference:
    """One field in which two keys differ; None stands for an absent field."""

    layer: Layer
    field: str
    a: Any
    b: Any

    def as_dict(self) -> dict[str, Any]:
        """Returns the difference as a JSON object."""
        return {"layer": str(self.layer), "field": self.field, "a": self.a, "b": self.b}


@dataclass(frozen=True)
class EngineKey:
    """The declared inputs of an engine; equal digests mean that one can stand for the other."""

    hard: Mapping[str, Any]
    soft: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in Layer:
            given: Mapping[str, Any] = getattr(self, layer)
            present = {
                name: _checked(layer, name, value)
                for name, value in given.items()
                if value is not None
            }
            object.__setattr__(self, layer, present)
        if "builder" not in self.hard or "weights" not in self.hard:
            raise InvalidRecordError(
                "the key lacks a field every engine has",
                where="engine key",
                actual=sorted(self.hard),
                expected="builder and weights",
            )

    @classmethod
    def of(cls, *, info: Mapping[str, Any] | None = None, **fields: Any) -> EngineKey:  # noqa: ANN401 - JSON
        """Makes a key from fields by name, each put into the layer it belongs to."""
        soft = {name: value for name, value in fields.items() if name in SOFT_FIELDS}
        hard = {name: value for name, value in fields.items() if name not in SOFT_FIELDS}
        return cls(hard, soft, info or {})

    @classmethod
    def recorded(cls, hard: Mapping[str, Any], soft: Mapping[str, Any]) -> EngineKey:
        """Returns a key as the catalogue has it: it was checked when it was recorded."""
        key = object.__new__(cls)
        for layer, given in ((Layer.HARD, hard), (Layer.SOFT, soft), (Layer.INFO, {})):
            object.__setattr__(key, layer, given)
        return key

    def __hash__(self) -> int:
        return hash(canonical_json(self.as_dict()))

    @property
    def scheme(self) -> str:
        """The first scheme that knows all of its hard fields."""
        first, second = SCHEMES
        return second if _SINCE_V2 & self.hard.keys() else first

    def digest(self) -> Digest:
        """Returns the key digest: over the hard layer alone."""
        return digest_document(dict(self.hard), self.scheme)

    def as_dict(self) -> dict[str, Any]:
        """Returns the three layers as one JSON object; `from_dict` reads it back."""
        return {"hard": _plain(self.hard), "soft": _plain(self.soft), "info": _plain(self.info)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> EngineKey:
        """Reads what `as_dict` wrote; raises InvalidRecordError on anything else."""
        layers = [document.get(layer, {}) for layer in Layer]
        if set(document) - set(Layer) or not all(isinstance(layer, Mapping) for layer in layers):
            raise InvalidRecordError(
                "not an engine key", actual=sorted(document), expected="hard, soft and info objects"
            )
        return cls(*layers)


def compare(a: EngineKey, b: EngineKey) -> list[FieldDifference]:
    """Lists the fields in which two keys differ: hard first, then soft, then info, by name."""
    layers = (
        (Layer.HARD, a.hard, b.hard),
        (Layer.SOFT, a.soft, b.soft),
        (Layer.INFO, a.info, b.info),
    )
    return [
        FieldDifference(layer, name, one.get(name), other.get(name))
        for layer, one, other in layers
        for name in sorted({*one, *other})
        if _differ(one.get(name), other.get(name))
    ]


def _differ(a: object, b: object) -> bool:
    return canonical_json(a) != canonical_json(b)  # True == 1 in Python, not in a digest


def _checked(layer: Layer, name: str, value: object) -> object:
    """Returns a plain copy of a field's value; raises InvalidRecordError for what is no field."""
    known = _KNOWN.get(layer)
    if known is not None and name not in known:
        raise InvalidRecordError(
            f"not a {layer} field",
            where=f"engine key: {name}",
            expected=", ".join(known),
            remedy="put what is recorded only into the info layer",
        )
    try:
        _exact_name(name)
        return _exact(value, fractions=layer is Layer.INFO)
    except (TypeError, ValueError) as error:
        raise InvalidRecordError(
            "not a value that hashes the same everywhere",
            where=f"engine key: {name!r}",
            actual=str(error),
            expected="text without NUL, whole numbers, booleans, and lists or objects of these",
            remedy="write a fraction as text",
        ) from error


def _exact(value: object, *, fractions: bool) -> object:
    """Copies a JSON value into plain dicts and lists, so that nobody holds on to its insides.

    Whatever it returns is one JSON text and no other; raises TypeError or ValueError for the rest.
    Text comes first: nearly all of a key is text, and a key is read with every engine.
    """
    if isinstance(value, str):
        return _exact_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        str(value)  # of too many digits, it could not be written
        return value
    if isinstance(value, Mapping):
        return {
            _exact_name(name): _exact(item, fractions=fractions) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_exact(item, fractions=fractions) for item in value]
    if fractions and isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{type(value).__name__} {value!r}")


def _exact_name(name: object) -> str:
    if not isinstance(name, str):  # json would turn it into text: `{1: …}` is not `{"1": …}`
        raise TypeError(f"the name {name!r} is not text")
    return _exact_text(name)


def _exact_text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("PostgreSQL's JSONB cannot hold a NUL")
    if not value.isascii():
        value.encode()  # fails on half of a surrogate pair, which is not UTF-8
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Copies a JSON value into plain dicts and lists, so that nobody holds on to its insides."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
