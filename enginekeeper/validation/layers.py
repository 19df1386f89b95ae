"""The probes `layers` and `gemm`: every part of an engine against its checkpoint, alone.

What one layer gets wrong is all that differs there: it does not drown in what later layers make of
it, a recipe that rounds activations has next to no floor, and the layer is named. It compares the
engine with what its *checkpoint* says, so it judges builder, kernels and runtime; what is wrong in
the checkpoint is for audits and the recipe twin.

Rules:

- the quantity is the squared distance from the twin's answer over the square of what the twin's
  layer adds, summed over each prompt's tokens (1e-4 is one percent), in a typical prompt: the mean
  is of logarithms. A fault of a layer is in every prompt; one activation that is rounded the other
  way is in one, and large;
- a part fails where that is proven above LEAST, or above FLOOR times what noise of float32 size
  does to the twin in the same place, or in all places but the noisiest on average, if that is more;
  all parts share one check's error of a failure (Bonferroni). It passes where every part is proven
  inside limits of MOST and less; between, it is shown;
- an answer that is not finite fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.array_files import ArrayFile
from enginekeeper.validation.checks import (
    Check,
    Limit,
    Quantity,
    bounded,
    nearer_to_failing,
    ratio_of,
    rounded,
)
from enginekeeper.validation.findings import Finding

SCHEMA = "1"


@dataclass(frozen=True)
class Kind:
    """What an engine is taken apart into."""

    name: str
    taxonomy: str
    meaning: str
    otherwise: str
    """What is wrong with a part, before the share by which it is."""
    share: str
    """Of what that share is."""


LAYERS = Kind(
    "probe.layers",
    "T7",
    "squared error of the worst part in a typical prompt, of what the part adds",
    "given what the checkpoint's own layer is given, the engine answers otherwise",
    "what the layer adds",
)

LINEARS = Kind(
    "probe.gemm",
    "T7",
    "squared error of the worst linear in a typical prompt, of what it answers",
    "asked alone, with what it multiplies in the checkpoint's twin, the engine answers otherwise",
    "the answer",
)

LEAST = 1e-7
"""0.03 % of what a layer adds. Float32 leaves 1e-12; a linear that is 0.3 % too loud about 2e-6."""

SMALLEST = 1e-16
"""What is smaller, 0 included, is taken for this: less than float32 can say."""

FLOOR = 4.0
"""Two executions with noise of their own are twice as far apart, squared, as each from none."""

MOST = 0.01
"""Ten percent of what a layer adds: where noise explains more than that, being inside proves
nothing. NVFP4 on SmolLM2-135M has limits of 1.9e-5 to 1.1e-4."""

NAMED = 4
"""Parts that a message has room for."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class LayerScores:
    """What `probe_layers` or `probe_linears` measured: [parts, prompts] each."""

    parts: tuple[str, ...]
    tokens: int
    apart: Doubles
    floor: Doubles
    size: Doubles
    broken: Doubles
    rows: tuple[tuple[int, float], ...] = ()
    """Of each part the output that is furthest away, and by which share of its size, squared."""


def load_linears(path: Path) -> LayerScores:
    """Reads what the step `probe_linears` wrote; raises InputError for what is not whole."""
    file = ArrayFile.open(path, holds="linears", schema=SCHEMA)
    scores = _scores(file)
    row, apart = file.array("row"), file.array("row_apart")
    count = (len(scores.parts),)
    if not all(one.shape == count and _are_sizes(one) for one in (row, apart)):
        raise InputError(
            "no furthest output of each part", where=str(path), actual=list(row.shape),
            expected=list(count),
        )  # fmt: skip
    rows = zip(row.astype(np.int64).tolist(), apart.tolist(), strict=True)
    return replace(scores, rows=tuple(rows))


def load_layers(path: Path) -> LayerScores:
    """Reads what the step `probe_layers` wrote; raises InputError for what is not whole."""
    return _scores(ArrayFile.open(path, holds="layers", schema=SCHEMA))


def _scores(file: ArrayFile) -> LayerScores:
    parts, tokens = file.listed("parts", str), file.listed("tokens", int)
    arrays = {name: file.array(name) for name in ("apart", "floor", "size", "broken")}
    shape = (len(parts), len(tokens))
    for name, array in arrays.items():
        if array.shape != shape or not _are_sizes(array):
            raise InputError(
                f"{name} is not what the format says", where=str(file.path),
                actual=list(array.shape), expected=f"{list(shape)} finite numbers, none below 0",
            )  # fmt: skip
    doubles = {name: array.astype(np.float64) for name, array in arrays.items()}
    apart, floor, size, broken = doubles.values()
    return LayerScores(parts, sum(tokens), apart, floor, size, broken)


def _are_sizes(array: NDArray[Any]) -> bool:
    return bool((np.isfinite(array) & (array >= 0)).all())


def layers_check(scores: LayerScores, limit: Limit, kind: Kind = LAYERS) -> Check:
    """Judges every part; of `limit` only the levels and the error of a failure are used."""
    check = Check(
        kind.name, "pass", kind.meaning, prompts=scores.apart.shape[1], positions=scores.tokens,
        limit=LEAST,
    )  # fmt: skip
    shared = replace(limit, checks=limit.checks * len(scores.parts), policy_field=None)
    if broken := np.flatnonzero(scores.broken.sum(axis=1)).tolist():
        part, count = scores.parts[broken[0]], int(scores.broken[broken[0]].sum())
        message = f"{part} answers {count} finite states with NaN or infinity"
        finding = Finding(kind.name, "fail", part, message, count, 0, "T20")
        return replace(check, outcome="fail", note=message, finding=finding)
    judged = [_judged(scores, part, shared) for part in range(len(scores.parts))]
    failed = [part for part, one in enumerate(judged) if one.outcome == "fail"]
    inside = sum(one.outcome == "pass" for one in judged)
    worst = max(range(len(judged)), key=lambda part: nearer_to_failing(judged[part]))
    said = judged[worst]
    note = f"worst: {scores.parts[worst]}; {inside} of {len(judged)} parts are proven inside"
    check = replace(
        check, value=said.value, lower=said.lower, upper=said.upper, limit=said.limit, note=note,
        outcome="fail" if failed else "pass" if inside == len(judged) else "shown",
    )  # fmt: skip
    if not failed:
        return check
    where = ", ".join(scores.parts[part] for part in failed[:NAMED])
    more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    message = (
        f"{where}{more}: {kind.otherwise}, by {(said.value or 0.0) ** 0.5:.2%} of {kind.share}"
        f"{_furthest(scores, worst)}"
    )
    expected = f"at most {said.limit:.3g}"
    finding = Finding(
        kind.name, "fail", where, message, rounded(said.value), expected, kind.taxonomy
    )
    return replace(check, finding=finding)


def _furthest(scores: LayerScores, part: int) -> str:
    if not scores.rows:
        return ""
    row, apart = scores.rows[part]
    return f"; of {scores.parts[part]} most in output {row}, by {apart**0.5:.2%}"


def _judged(scores: LayerScores, part: int, limit: Limit) -> Check:
    sizes = np.maximum(scores.size[part], np.finfo(np.float64).tiny)
    shares = [_share(*one) for one in zip(scores.floor, scores.size, strict=True)]
    allowed = max(LEAST, FLOOR * max(shares[part], _without_largest(shares)))
    logarithms = np.log(np.maximum(scores.apart[part] / sizes, SMALLEST))
    strata = np.zeros(len(sizes), dtype=np.int64)
    quantity = Quantity(
        LAYERS.name, scores.parts[part], "", logarithms, np.ones(len(sizes)), strata, ratio_of
    )
    check = bounded(quantity, replace(limit, value=allowed))
    hidden = check.outcome == "pass" and allowed > MOST
    return replace(check, outcome="inconclusive") if hidden else check


def _share(energy: Doubles, size: Doubles) -> float:
    return float(energy.sum() / max(float(size.sum()), np.finfo(np.float64).tiny))


def _without_largest(shares: list[float]) -> float:
    """Returns the mean of all but the largest: one part that is all noise hides no other."""
    return sum(sorted(shares)[:-1]) / max(len(shares) - 1, 1)
