"""Whether engines pay: arithmetic on the user's own figures, and on no others.

Throughput is measured elsewhere, per GPU and at the same latency for both; prices are the user's.
GPUs are counted by whole servers: half a server cannot be given back. Figures are bounded, so that
the arithmetic on them stays finite.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, isfinite

from enginekeeper.errors import InputError

HOURS_PER_MONTH = 730.5
"""A year's 8766 hours over twelve."""

_ABOVE_ZERO = frozenset({"tokens_per_second", "baseline", "engine", "gpu_hour"})
_LEAST, _MOST = 1e-6, 1e12
_MOST_GPUS = 4096


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What is served, at which rates, for which prices."""

    tokens_per_second: float
    """The traffic's peak, over the whole fleet."""

    baseline: float
    """Tokens per second of one GPU today, such as vLLM's."""

    engine: float
    """Tokens per second of one GPU with an engine."""

    gpu_hour: float
    """Price of one GPU for an hour."""

    baseline_gpus: int = 1
    """GPUs of one server today."""

    engine_gpus: int = 1
    """GPUs of one server with an engine."""

    build_gpu_hours: float = 0.0
    """GPU hours that one round of builds and judgements takes."""

    rounds_per_month: float = 0.0
    """How often everything is built again: drivers, models, releases."""

    monthly_cost: float = 0.0
    """What operating it costs a month besides: people, storage."""


@dataclass(frozen=True)
class Worth:
    """What comes of it."""

    baseline_gpus: int
    engine_gpus: int
    gain: float
    """Throughput over the baseline's, less one: 0.2 is a fifth more."""

    gross_saving: float
    """A month's price of the GPUs that are not needed."""

    cost: float
    """A month's builds and operation."""

    net_saving: float
    break_even_gain: float | None
    """The gain from which it pays, GPUs not counted whole; None if no gain does."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Returns the answer as JSON values."""
        return asdict(self)


def worth(traffic: Traffic) -> Worth:
    """Compares two ways to serve the same traffic; raises InputError for figures that are none."""
    for name, value in asdict(traffic).items():
        _check(name, value)
    month = traffic.gpu_hour * HOURS_PER_MONTH
    before, after = (
        size * ceil(traffic.tokens_per_second / (rate * size))
        for rate, size in (
            (traffic.baseline, traffic.baseline_gpus),
            (traffic.engine, traffic.engine_gpus),
        )
    )
    gross = (before - after) * month
    builds = traffic.build_gpu_hours * traffic.rounds_per_month * traffic.gpu_hour
    cost = builds + traffic.monthly_cost
    return Worth(
        baseline_gpus=before,
        engine_gpus=after,
        gain=traffic.engine / traffic.baseline - 1,
        gross_saving=gross,
        cost=cost,
        net_saving=gross - cost,
        break_even_gain=_break_even(traffic.tokens_per_second / traffic.baseline * month, cost),
    )


def _check(name: str, value: float) -> None:
    if not isfinite(value):
        raise InputError(f"{name} is no finite number", actual=value)
    least = 1 if name.endswith("_gpus") else _LEAST if name in _ABOVE_ZERO else 0
    most = _MOST_GPUS if name.endswith("_gpus") else _MOST
    if not least <= value <= most:
        above = f"{name} must be above 0" if value <= 0 < least else f"{name} is not usable"
        raise InputError(above, actual=value, expected=f"{least:g} to {most:g}")


def _break_even(spent: float, cost: float) -> float | None:
    """A gain g saves spent x g / (1 + g) a month: all of it at most, however large the gain."""
    return None if cost >= spent else cost / (spent - cost)
