"""Weights that are known, in the formats of a checkpoint: nothing, one input each, moved rows.

A compiled layer takes its weights as arguments, of fixed types and shapes. With weights like these
in the place of all but one of its linears, what the layer answers is what that one linear answered,
by the very code that the engine runs. What rounds an input (its scales, the vector before it)
stays, so that a linear of known weights tells what the real one would have multiplied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _linear_formats import LinearFormat

    Tensor = torch.Tensor
    Tensors = Mapping[str, Tensor]

ONE = {"int8": 1, "int4": 1, "int4_fp8": 1, "nvfp4": 2}
"""The code of 1.0 where codes are no numbers: e2m1 counts 0, 0.5, 1."""

SCALES = ("weights_scaling_factor", "weights_scaling_factor_2", "per_channel_scale")


def silent(tensors: Tensors) -> dict[str, Tensor]:
    """Returns weights that answer 0 to whatever they are given."""
    return {
        role: torch.zeros_like(tensor) if role in ("weight", "bias") else tensor
        for role, tensor in tensors.items()
    }


def telling(layout: LinearFormat, tensors: Tensors, columns: Sequence[int]) -> dict[str, Tensor]:
    """Returns weights whose row r answers input `columns[r]`, as it is; rows beyond answer 0."""
    known = {
        role: torch.ones_like(tensor.to(torch.float32)).to(tensor.dtype)
        if role in SCALES
        else tensor
        for role, tensor in silent(tensors).items()
    }
    known["weight"] = _picking(layout, tensors["weight"], columns)
    return known


def _picking(layout: LinearFormat, weight: Tensor, columns: Sequence[int]) -> Tensor:
    rows, chosen = torch.arange(len(columns)), torch.tensor(list(columns))
    match layout.weight:
        case "int4" | "int4_fp8":  # two rows in a byte, the even one below
            codes = torch.zeros(2 * weight.shape[0], weight.shape[1], dtype=torch.uint8)
            codes[rows, chosen] = ONE[layout.weight]
            return (codes[::2] | codes[1::2] << 4).view(weight.dtype)
        case "nvfp4":  # two columns in a byte, the even one below
            codes = torch.zeros(weight.shape[0], 2 * weight.shape[1], dtype=torch.uint8)
            codes[rows, chosen] = ONE["nvfp4"]
            return codes[:, ::2] | codes[:, 1::2] << 4
        case _:
            numbers = torch.zeros(weight.shape, dtype=torch.float32)
            numbers[rows, chosen] = 1.0
            return numbers.to(weight.dtype)


def moved(layout: LinearFormat, tensors: Tensors, order: Tensor) -> dict[str, Tensor]:
    """Returns the same weights with row `order[r]` in the place of row r.

    INT4 has two rows in a byte: they move together.
    """
    found = dict(tensors)
    for role in ("weight", "bias", *SCALES):
        tensor = tensors.get(role)
        if tensor is None or tensor.numel() == 1:
            continue
        packed = role == "weight" and layout.weight.startswith("int4")
        places = order[::2] // 2 if packed else order
        found[role] = _bytes_moved(tensor, places)
    return found


def _bytes_moved(tensor: Tensor, places: Tensor) -> Tensor:
    """Picks rows of any type; torch cannot index some of them."""
    if tensor.element_size() == 1:
        return tensor.view(torch.uint8)[places].view(tensor.dtype)
    return tensor[places]
