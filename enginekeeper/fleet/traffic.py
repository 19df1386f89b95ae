"""How busy each node is, by whoever measures it already: Prometheus, or a file.

Nothing is measured here: dcgm-exporter and the servers' own metrics are scraped by a Prometheus
where they run, and an average over an hour is worth more than one look at a node.

Rules:

- a number that is none, is not finite or is below zero is unknown, and counted as such;
- what is unknown comes last: a node of which nobody knows is not taken for an idle one.

Format: prometheus.io/docs/prometheus/latest/querying/api, instant queries; the label `Hostname` is
dcgm-exporter's. Read from the documentation; asked here was a double.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from enginekeeper.documents import parse_json, read_json_object
from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.http_get import check_url

BUSY_GPUS = "avg by (Hostname) (avg_over_time(DCGM_FI_DEV_GPU_UTIL[1h]))"
"""How busy the GPUs of each node were in the last hour, in percent."""

_LABELS = ("Hostname", "node", "nodename", "instance")
"""Which label of a sample names a node: the first that is there."""
_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Traffic:
    """How busy nodes are: more is busier, in whatever unit it was asked in."""

    source: str
    of: Mapping[str, float]

    def order(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns names with the least traffic first, and those of which nothing is known last."""
        return tuple(sorted(names, key=self._rank))

    def unknown(self, names: Iterable[str]) -> int:
        """Counts the names of which nothing is known."""
        return sum(name not in self.of for name in names)

    def _rank(self, name: str) -> tuple[bool, float, str]:
        found = self.of.get(name)
        return found is None, found or 0.0, name


def read_traffic(source: str, query: str | None, get: Callable[..., str]) -> Traffic:
    """Returns what Prometheus at an address, or a file `{"node": number}`, says.

    Raises UnavailableError where it does not answer, InputError where it says something else,
    MissingError for a file that is not there.
    """
    if not source.startswith(("http://", "https://")):
        if query is not None:
            raise InputError("a file is not asked a query", where="--traffic", actual=source)
        file = Path(source)
        if not file.is_file():
            raise MissingError("there is no such file", where=f"--traffic {source}")
        return Traffic(source, dict(_numbers(read_json_object(file).items())))
    address = f"{check_url(source, '--traffic').rstrip('/')}/api/v1/query"
    asked = f"{address}?{urlencode({'query': query or BUSY_GPUS})}"
    found = parse_json(get(asked, limit=_LIMIT, seconds=30.0), address)
    return Traffic(address, dict(_numbers(_samples(found, address))))


def _samples(document: object, where: str) -> Iterator[tuple[str, object]]:
    """Yields the node and the value of each sample of an instant vector."""
    data = document.get("data") if isinstance(document, Mapping) else None
    result = data.get("result") if isinstance(data, Mapping) else None
    if not isinstance(result, list) or not isinstance(data, Mapping):
        raise InputError("no answer to an instant query of Prometheus", where=where)
    if data.get("resultType") != "vector":
        raise InputError(
            "the query gives no value for each node", where=where,
            actual=repr(data.get("resultType"))[:80], expected="a vector",
        )  # fmt: skip
    for one in result:
        labels, value = _sample(one, where)
        named = [labels[name] for name in _LABELS if name in labels]
        if not named:
            raise InputError(
                "a sample names no node", where=where, actual=repr(labels)[:200],
                expected=f"one of the labels {', '.join(_LABELS)}: `avg by (Hostname) (…)`",
            )  # fmt: skip
        yield _host(named[0]), value


def _sample(one: object, where: str) -> tuple[Mapping[str, str], object]:
    labels = one.get("metric") if isinstance(one, Mapping) else None
    value = one.get("value") if isinstance(one, Mapping) else None
    texts = isinstance(labels, Mapping) and all(isinstance(text, str) for text in labels.values())
    if not texts or not isinstance(labels, Mapping) or not isinstance(value, list):
        raise InputError("not a sample of Prometheus", where=where, actual=repr(one)[:200])
    return labels, value[-1] if value else None


def _host(label: str) -> str:
    """Returns the name in `instance`, which has a port behind it."""
    name, colon, port = label.rpartition(":")
    return name if colon and port.isdecimal() else label


def _numbers(pairs: Iterable[tuple[str, object]]) -> Iterator[tuple[str, float]]:
    for name, said in pairs:
        try:
            value = float(said) if isinstance(said, int | float | str) else math.nan
        except (ValueError, OverflowError):
            value = math.nan
        if math.isfinite(value) and value >= 0:
            yield name, value
