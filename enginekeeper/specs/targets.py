"""Targets: what an engine is built for, and the sizes and versions that describe it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from enginekeeper.specs.form import FORM, did_you_mean, fault
from enginekeeper.specs.gpus import CPU, GpuProduct, gpu_products, target_names
from enginekeeper.specs.source import Name

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([A-Za-z]+)")
_SIZE_EXPECTED = 'a number of bytes, or text with a unit: "80GB" (10^9) or "80GiB" (2^30), MB, MiB'


def _bytes(value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise fault("not a size", expected=_SIZE_EXPECTED)
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2] not in _UNITS:
        alike = [] if match is None else [u for u in _UNITS if u.lower() == match[2].lower()]
        remedy = f"did you mean {alike[0]}?" if alike else None
        raise fault("not a size", expected=_SIZE_EXPECTED, remedy=remedy)
    return int(float(match[1]) * _UNITS[match[2]])


ByteSize = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": "^[0-9]{1,6}(\\.[0-9]{1,3})? ?([MG]i?B)$"},
            ]
        }
    ),
]
"""A size in bytes, written as a whole number or with a unit."""


def _known_target(name: str) -> str:
    names = target_names()
    if name not in names:
        raise fault(
            "no such target",
            expected=f"one of {', '.join(names)}",
            remedy=did_you_mean(name.lower(), names),
        )
    return name


_Gpu = Annotated[
    str,
    AfterValidator(_known_target),
    WithJsonSchema({"type": "string", "enum": list(target_names())}),
]


@dataclass(frozen=True, kw_only=True, config=FORM)
class Target:
    """What engines are built for; a bare name stands for the product with no more said."""

    gpu: _Gpu
    """GPU product from the table, such as h100-sxm, or cpu for the processor of this machine."""

    driver: Annotated[str, Field(pattern=r"^[0-9]{2,4}(\.[0-9]{1,4}){0,2}$")] | None = None
    """NVIDIA driver the nodes run, such as "580.95.05", quoted; checked against the toolchain."""

    cuda: Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")] | None = None
    """CUDA runtime the engine must run with, major.minor such as "13.0", quoted."""

    memory: ByteSize | None = None
    """Memory an engine may use on each GPU, in bytes or as "40GiB"; all of it if left out."""

    label: Name | None = None
    """The target's part of the identifier, to tell two uses of one GPU product apart."""

    def __post_init__(self) -> None:
        if self.gpu == CPU:
            for field in ("driver", "cuda", "memory"):
                if getattr(self, field) is not None:
                    raise fault("the cpu target has none", expected=f"no {field}", field=field)
        elif self.memory is not None and self.memory > gpu_products()[self.gpu].memory:
            whole = gpu_products()[self.gpu].memory
            raise fault("is more than the GPU has", expected=f"at most {whole}", field="memory")

    @property
    def part(self) -> str:
        """Its part of an identifier: the product's name, or the label."""
        return self.label or self.gpu

    @property
    def product(self) -> GpuProduct | None:
        """The row of the GPU table; None for the CPU."""
        return gpu_products().get(self.gpu)


def _spelled_out(value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    return {"gpu": value} if isinstance(value, str) else value


TargetEntry = Annotated[
    Target,
    BeforeValidator(_spelled_out, json_schema_input_type=_Gpu | Target),
]
"""A target in a list: its name, or a mapping."""
