"""What can be said of calibrated activation scales without the calibration data.

Most of a static activation scale cannot be checked against the source: behaviour has to. Two
things can: linears that read the same input and smooth nothing share one scale, and SmoothQuant
with alpha 1 divides every channel by its own maximum, so that the scale is 1/127.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import INT8_MAX, widen
from enginekeeper.validation.numerics.mapping import Geometry

_ROUNDING = 2.0**-7
"""ModelOpt rounds the largest smoothed activation, which is 1, to bfloat16."""


def shared_input(checkpoint: Checkpoint, geometry: Geometry) -> Iterator[Finding]:
    """Yields a finding where fc and gate, which read the same numbers, scale them differently."""
    for layer in range(geometry.layers):
        prefix = f"transformer.layers.{layer}.mlp"
        if checkpoint.tensors(layer, f"{prefix}.fc.prequant_scaling_factor"):
            continue
        stored = [
            checkpoint.tensors(layer, f"{prefix}.{name}.activation_scaling_factor")
            for name in ("fc", "gate")
        ]
        if not all(tensors and tensors[0].nbytes for tensors in stored):
            continue
        fc, gate = (float(widen(tensors[0].read()).reshape(-1)[0]) for tensors in stored)
        if fc != gate:
            yield Finding(
                "weights.activation_scale",
                "fail",
                f"{prefix}.gate.activation_scaling_factor",
                "fc and gate read the same input and share its scale; these differ",
                gate,
                fc,
                "T13",
            )


def smoothed_input(stored: AssembledLinear) -> Iterator[Finding]:
    """Yields a finding where a linear smoothed with alpha 1 has another scale than 1/127.

    Only for linears reproduced bit for bit, which shows that alpha was 1.
    """
    activation, expected = stored.first.activation, 1 / INT8_MAX
    if activation is None or activation.scale is None:
        return
    if not math.isclose(activation.scale, expected, rel_tol=_ROUNDING):
        yield Finding(
            "weights.activation_scale",
            "fail",
            f"{stored.place.name}.activation_scaling_factor",
            f"the scale is {activation.scale / expected:.4g} times what smoothing with the "
            "reciprocal of the largest activations gives",
            activation.scale,
            expected,
            "T13",
        )
