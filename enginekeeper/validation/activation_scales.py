"""What can be said of calibrated activation scales without the calibration data.

Most of a static activation scale cannot be checked against the source: behaviour has to. Three
things can (of linears that no norm feeds see `activation_range.py`): linears that read the same
input and smooth nothing share one scale; SmoothQuant with alpha 1 divides every channel by its own
maximum, so that the scale is 1/127; and what an RMS norm gives out is bounded. Of x normalized to n
numbers the squares add up to n, so that the largest magnitude of x·w lies between
sqrt(n / sum(1/w²)) and sqrt(n) max|w|, whatever x is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import (
    E2M1_MAX,
    E4M3_MAX,
    INT8_MAX,
    Floats,
    widen,
)
from enginekeeper.validation.numerics.mapping import Geometry, LinearPlace, VectorPlace
from enginekeeper.validation.numerics.smoothing import BOUNDS, as_exported

_ROOM = 4.0
"""What an exporter may leave above the largest activation, or an epsilon take away below."""

LARGEST = {"fp8_static": E4M3_MAX, "int8_static": INT8_MAX, "nvfp4": E4M3_MAX * E2M1_MAX}
"""Largest activation over its scale, by the kind of activation."""

_ROUNDING = 2.0**-7
"""ModelOpt rounds the largest smoothed activation, which is 1, to bfloat16."""

_CHOICE = (0.55, 1.9)
"""What a calibrator that clips, or leaves a margin, may make of a scale."""


def shared_input(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding where fc and gate, which read the same numbers, scale them differently.

    The one that is further from what is usual over the layers is to blame.
    """
    pairs = {layer: _of_both(checkpoint, layer) for layer in range(geometry.layers)}
    found = {layer: pair for layer, pair in pairs.items() if pair is not None}
    usual = float(np.median(list(found.values()))) if found else 1.0
    for layer, (fc, gate) in found.items():
        if fc == gate:
            continue
        wrong, right, name = (gate, fc, "gate")
        if _strange(fc, usual) > _strange(gate, usual):
            wrong, right, name = (fc, gate, "fc")
        yield Finding(
            "weights.activation_scale",
            "fail",
            f"transformer.layers.{layer}.mlp.{name}.activation_scaling_factor",
            "fc and gate read the same input and share its scale; these differ",
            wrong,
            right,
            "T13",
        )


def _of_both(checkpoint: Checkpoint, layer: int) -> tuple[float, float] | None:
    """Returns the scales of fc and gate; None where one is none, or inputs are smoothed."""
    prefix = f"transformer.layers.{layer}.mlp"
    if checkpoint.tensors(layer, f"{prefix}.fc.prequant_scaling_factor"):
        return None
    fc, gate = (
        checkpoint.tensors(layer, f"{prefix}.{name}.activation_scaling_factor")
        for name in ("fc", "gate")
    )
    if not (fc and gate and fc[0].nbytes and gate[0].nbytes):
        return None
    one, other = (float(widen(tensors[0].read()).reshape(-1)[0]) for tensors in (fc, gate))
    usable = all(math.isfinite(scale) and scale > 0 for scale in (one, other))
    return (one, other) if usable else None  # others say what is no scale


def _strange(scale: float, usual: float) -> float:
    """Returns how far a scale is from what is usual, as a logarithm."""
    return abs(math.log(scale / usual))


def smoothed_input(stored: AssembledLinear, made_in: str, stored_in: str) -> Iterator[Finding]:
    """Yields a finding where a linear smoothed with alpha 1 has another scale than 1/127.

    It was smoothed in one dtype, and its vector is stored in another one, perhaps.
    Only for linears reproduced bit for bit, which shows that alpha was 1. A channel at the lowest
    divisor there is may be left with more than 1, and the scale is larger then. Up to a factor of
    two another calibrator may have chosen a margin, or clipped: doubt.
    """
    activation, expected = stored.first.activation, 1 / INT8_MAX
    if activation is None or activation.scale is None:
        return
    ratio = activation.scale / expected
    if math.isclose(ratio, 1, rel_tol=_ROUNDING) or (
        ratio > 1 and _held_down(stored.prequant, as_exported(BOUNDS[:1], made_in, stored_in).max())
    ):
        return
    yield Finding(
        "weights.activation_scale",
        "inconclusive" if _CHOICE[0] < ratio < _CHOICE[1] else "fail",
        f"{stored.place.name}.activation_scaling_factor",
        f"the scale is {ratio:.4g} times what smoothing with the reciprocal of the largest "
        "activations gives",
        activation.scale,
        expected,
        "T13",
    )


def _held_down(prequant: Floats | None, lowest: np.float32) -> bool:
    """Says whether a channel's activations were too large for what they may be divided by."""
    return prequant is not None and bool((prequant <= lowest).any())


def norm_bounds(weight: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns what the largest magnitude that an RMS norm gives out lies between, for any input."""
    size = math.sqrt(len(weight))
    with np.errstate(divide="ignore"):
        smallest = size / math.sqrt(float((1 / weight**2).sum()))
    return smallest, size * float(np.abs(weight).max())


def normed_input(
    checkpoint: Checkpoint, place: LinearPlace, stored: AssembledLinear
) -> Iterator[Finding]:
    """Yields a finding where a scale is beyond what the norm before the linear can give out."""
    activation = stored.first.activation
    if place.norm is None or activation is None or activation.scale is None:
        return
    norm = checkpoint.vector(VectorPlace(f"{place.norm[0]}.weight", (), place.layer, None))
    if norm is None or norm.shape != (place.columns,) or not np.isfinite(norm).all():
        return  # The census or the norm's own check says so.
    weight = norm.astype(np.float64) * (1.0 if stored.prequant is None else stored.prequant)
    smallest, largest = norm_bounds(weight)
    found = activation.scale * LARGEST[activation.kind]
    if not smallest / _ROOM <= found <= largest * _ROOM:
        yield Finding(
            "weights.activation_scale",
            "fail",
            f"{place.name}.activation_scaling_factor",
            f"the scale is for activations of up to {found:.4g}; the norm before the linear gives "
            f"out {smallest:.4g} to {largest:.4g} at most",
            activation.scale,
            [bound / LARGEST[activation.kind] for bound in (smallest, largest)],
            "T13",
        )
