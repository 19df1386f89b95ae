"""How each quantization algorithm stores one linear layer in a TensorRT-LLM checkpoint.

A format lists the tensors that belong to a linear with `rows` outputs and `columns` inputs: their
names, types and shapes. Nothing is guessed from what a file happens to hold: the config names the
algorithm, the algorithm names the tensors, and the file either has them or is refused.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _step import Refusal

if TYPE_CHECKING:
    from _model_config import Quantization

FLOATS = ("BF16", "F16", "F32")
NVFP4_BLOCK = 16


@dataclass(frozen=True)
class Expected:
    """One tensor a linear needs: the types it may have and its shape."""

    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LinearFormat:
    """The numbers a linear layer computes with."""

    weight: str
    """plain, int8, fp8, fp8_rows, int4 or nvfp4."""
    activation: str | None = None
    """None, fp8_static, fp8_per_token, int8_static or nvfp4."""
    group_size: int = 0
    """Input columns that share a scale; 0 where the format has no groups."""
    prequant: bool = False
    """Whether the input is multiplied by a vector first."""

    def expected(self, rows: int, columns: int) -> dict[str, Expected]:
        """Returns the tensors of a linear by the last part of their name."""
        tensors = _WEIGHTS[self.weight](rows, columns, self.group_size)
        if self.prequant:
            tensors["prequant_scaling_factor"] = Expected(FLOATS, ((columns,),))
        if self.activation in {"fp8_static", "int8_static", "nvfp4"}:
            tensors["activation_scaling_factor"] = _SCALAR
        return tensors


_SCALAR = Expected(("F32",), ((1,), ()))


def _plain(rows: int, columns: int, _group: int) -> dict[str, Expected]:
    return {"weight": Expected(FLOATS, ((rows, columns),))}


def _int8(rows: int, columns: int, _group: int) -> dict[str, Expected]:
    return {
        "weight": Expected(("I8",), ((rows, columns),)),
        "weights_scaling_factor": Expected(("F32",), ((rows,),)),
    }


def _fp8(rows: int, columns: int, _group: int) -> dict[str, Expected]:
    return {
        "weight": Expected(("F8_E4M3",), ((rows, columns),)),
        "weights_scaling_factor": _SCALAR,
    }


def _fp8_rows(rows: int, columns: int, _group: int) -> dict[str, Expected]:
    return {
        "weight": Expected(("F8_E4M3",), ((rows, columns),)),
        "per_channel_scale": Expected(("F32",), ((rows,),)),
    }


def _int4(rows: int, columns: int, group: int) -> dict[str, Expected]:
    return {
        "weight": Expected(("I8", "U8"), ((rows // 2, columns),)),
        "weights_scaling_factor": Expected(("F32",), ((rows, columns // group),)),
    }


def _int4_fp8(rows: int, columns: int, group: int) -> dict[str, Expected]:
    return _int4(rows, columns, group) | {"weights_scaling_factor_2": _SCALAR}


def _nvfp4(rows: int, columns: int, _group: int) -> dict[str, Expected]:
    return {
        "weight": Expected(("U8",), ((rows, columns // 2),)),
        "weights_scaling_factor": Expected(("F8_E4M3",), ((rows, columns // NVFP4_BLOCK),)),
        "weights_scaling_factor_2": _SCALAR,
    }


_WEIGHTS = {
    "plain": _plain,
    "int8": _int8,
    "fp8": _fp8,
    "fp8_rows": _fp8_rows,
    "int4": _int4,
    "int4_fp8": _int4_fp8,
    "nvfp4": _nvfp4,
}

PLAIN = LinearFormat("plain")


def format_of(quantization: Quantization, module: str) -> LinearFormat:
    """Returns the format the config prescribes for a module such as `lm_head`."""
    algorithm = quantization.algorithm
    if algorithm is None or _excluded(quantization, module):
        return PLAIN
    group, prequant = quantization.group_size, quantization.pre_quant_scale
    formats = {
        "W8A16": LinearFormat("int8"),
        "FP8": LinearFormat("fp8", "fp8_static"),
        "FP8_PER_CHANNEL_PER_TOKEN": LinearFormat("fp8_rows", "fp8_per_token"),
        "W8A8_SQ_PER_CHANNEL": LinearFormat("int8", "int8_static", prequant=True),
        "W4A16_AWQ": LinearFormat("int4", None, group, prequant),
        "W4A8_AWQ": LinearFormat("int4_fp8", "fp8_static", group, prequant),
        "NVFP4": LinearFormat("nvfp4", "nvfp4", NVFP4_BLOCK),
    }
    if algorithm not in formats:
        raise Refusal(
            "unsupported-quantization",
            f"quant_algo {algorithm} is not implemented by the inductor builder",
            where="config.json: quantization.quant_algo",
            expected=", ".join(formats),
            actual=algorithm,
        )
    if quantization.has_zero_point:
        raise Refusal(
            "unsupported-quantization",
            "zero points are not implemented",
            where="config.json: quantization.has_zero_point",
            expected=False,
            actual=True,
        )
    return formats[algorithm]


def check_fits(layout: LinearFormat, module: str, rows: int, columns: int) -> None:
    """Refuses a linear whose sizes the format cannot pack."""
    if layout.group_size and columns % layout.group_size:
        raise Refusal(
            "group-size",
            "the group size does not divide the inputs of a linear layer",
            where=module,
            expected=f"a divisor of {columns}",
            actual=layout.group_size,
        )
    if layout.weight.startswith("int4") and rows % 2:
        raise Refusal(
            "group-size", "INT4 packs two output rows in a byte", where=module, actual=rows
        )


def _excluded(quantization: Quantization, module: str) -> bool:
    """Says whether the module keeps its own precision.

    Without a list TensorRT-LLM's `quantize_layers` leaves `*lm_head` and the embeddings alone.
    """
    patterns = quantization.exclude_modules
    if patterns is None:
        patterns = ("*lm_head", "*vocab_embedding")
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)
