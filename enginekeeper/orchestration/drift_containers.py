"""Drift of containers: the images in which engines run, against those that assignments name. Pure.

Rules:

- only what runs is asked, and only where an assignment names an image;
- of an assignment it is the engine that is desired, or what runs of the model in its place;
- every image that is named for it counts: where two assignments name two, one of them is drift;
- a process of which nobody told the image is said to be one of which it cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from enginekeeper.fleet.images import Fit, ImageName
from enginekeeper.fleet.wire import DesiredEngine
from enginekeeper.orchestration.drift import (
    DriftKind,
    FieldDrift,
    Finding,
    KnownEngine,
    Severity,
)

RUNS_IN = "image"
"""The field of a finding about a process; the keys of engines call theirs `container`."""
UNKNOWN_IMAGE = "unknown"
Named = Mapping[tuple[str, str], Sequence[ImageName]]
"""The images that engines are to run in, by model and channel; without those for which any will."""
_SEVERITY = {Fit.OTHER: Severity.MEDIUM, Fit.UNTOLD: Severity.LOW}


def container_findings(
    running: Sequence[tuple[str, str | None]],
    desired: Sequence[DesiredEngine],
    named: Named,
    engines: Mapping[str, KnownEngine],
) -> Iterator[Finding]:
    """Yields where engines run in other images than the assignments of their nodes name.

    `running` has each engine that runs with each image it runs in, None where nobody told.
    """
    should = {one.engine for one in desired if one.engine is not None}
    for one in desired:
        images = named.get((one.model, one.channel), ())
        if not images:
            continue
        held = [each for each in running if each[0] == one.engine] or [
            (engine, image)
            for engine, image in running
            if engine not in should and engine in engines and engines[engine].model == one.model
        ]
        for image in images:
            for engine, actual in held:
                yield from _otherwise(image, engine, actual, (one.model, one.channel))


def _otherwise(
    image: ImageName, engine: str, actual: str | None, wanted: tuple[str, str]
) -> Iterator[Finding]:
    fit, by = image.fit(actual)
    if fit is Fit.SAME:
        return
    said = UNKNOWN_IMAGE if actual is None else actual
    fields = (FieldDrift(RUNS_IN, image.text, said),)
    reason = f"runs in {said}: {by}"
    yield Finding(DriftKind.CONTAINER, _SEVERITY[fit], engine, fields, reason, wanted)
