"""Norms and biases: equal to the source, or compensated by the linears that follow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.formats import Floats, round_to, unit
from enginekeeper.validation.numerics.mapping import (
    Geometry,
    LinearPlace,
    VectorPlace,
    biases,
    norms,
)
from enginekeeper.validation.numerics.smoothing import Folding
from enginekeeper.validation.source_model import SourceModel


def folding(source: SourceModel, checkpoint: Checkpoint, place: LinearPlace) -> Folding | None:
    """Returns what the norm that feeds a linear took over, or None if it is the source's.

    None, too, where it is missing or of another shape, which others say.
    """
    if place.norm is None:
        return None
    trt, hf = place.norm
    stored = checkpoint.vector(VectorPlace(f"{trt}.weight", (), place.layer, None))
    if stored is None:
        return None  # The census says that it is missing.
    expected = round_to(source.rows(f"{hf}.weight"), checkpoint.dtype)
    if stored.shape != expected.shape or np.array_equal(stored, expected):
        return None
    return Folding.of(stored, expected, checkpoint.dtype)


def norm_finding(where: str, folding: Folding, dtype: str) -> Finding:
    """Says that a norm differs and that what follows does not take the difference back."""
    ratio, broken = folding.ratio, folding.not_finite
    if broken:
        return Finding(
            check="weights.finite",
            result="fail",
            where=where,
            message=f"{broken} of {ratio.size} weights of the norm are NaN or infinite",
            actual=broken,
            expected=0,
            taxonomy="T20",
        )
    small = bool((np.abs(ratio - 1) <= unit(dtype)).all())
    changed = int((ratio != 1).sum())
    return Finding(
        check="weights.norm",
        result="inconclusive" if small else "fail",
        where=where,
        message=f"{changed} of {ratio.size} weights of the norm differ from the source, and the "
        "linears that follow do not compensate",
        actual=f"x {float(np.median(ratio[ratio != 1])):.6g} (median of those that differ)",
        expected="x 1",
        taxonomy="T9",
    )


def vector_findings(
    source: SourceModel, checkpoint: Checkpoint, geometry: Geometry, *, head_is_read: bool
) -> Iterator[Finding]:
    """Yields findings for biases, and norms before no linear, that are not the source's.

    The other norms are judged with the linears that they feed, the last one with the head, if that
    is read; here only their shapes are.
    """
    for place in norms(geometry):
        if ".attention." in place.name or (place.layer is None and not head_is_read):
            yield from _compare(source, checkpoint, place)
        else:
            yield from _other_shape(place, checkpoint.vector(place), (geometry.hidden,))
    for place in biases(geometry):
        yield from _compare(source, checkpoint, place)


def _compare(source: SourceModel, checkpoint: Checkpoint, place: VectorPlace) -> Iterator[Finding]:
    stored = checkpoint.bias(place, place.parts)
    expected = None
    if all(name in source for name in place.sources):
        parts = [source.rows(name) for name in place.sources]
        expected = round_to(np.concatenate(parts), checkpoint.dtype)
    if stored is None or expected is None:
        yield from _one_sided(place, stored, expected)
    elif stored.shape != expected.shape:
        yield from _other_shape(place, stored, expected.shape)
    elif not np.array_equal(stored, expected):
        wrong = stored != expected
        message = f"{int(wrong.sum())} of {wrong.size} values differ from the source"
        yield _finding(place, message, float(stored[wrong][0]), float(expected[wrong][0]))


def _other_shape(
    place: VectorPlace, stored: Floats | None, expected: tuple[int, ...]
) -> Iterator[Finding]:
    if stored is not None and stored.shape != expected:
        yield _finding(place, "the shape differs", str(stored.shape), str(expected))


def _one_sided(
    place: VectorPlace, stored: Floats | None, expected: Floats | None
) -> Iterator[Finding]:
    """A tensor only one side has is a fault unless it changes nothing: a bias of zeros."""
    if expected is not None and expected.any():
        message = "the source has this tensor and the checkpoint has not"
        yield _finding(place, message, "absent", "present")
    elif stored is not None and stored.any():
        message = "the checkpoint has this tensor and the source has not"
        yield _finding(place, message, "present", "absent")


def _finding(place: VectorPlace, message: str, actual: object, expected: object) -> Finding:
    return Finding("weights.vector", "fail", place.name, message, actual, expected, "T26")
