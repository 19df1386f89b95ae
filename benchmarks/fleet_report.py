"""Writes what `fleet.py` measured: JSON of each run, `fleet.md` and `fleet.svg` of all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from fleet_world import Figure

PLOTTED = ("where --engine", "where --node", "drift summary", "wave plan")
_COLOURS = ("#2f6db3", "#c0504d", "#6a9f3e", "#8064a2")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 360, 70, 40, 20, 150
_INTRODUCTION = """# The fleet's server

Written by `python benchmarks/fleet.py --report` from the JSON of each run in `benchmarks/results/`.

    python benchmarks/fleet.py                                   # 1,000, 10,000, 100,000 nodes
    python benchmarks/fleet.py 100000 --directory DIR            # fills once, asks again
    python benchmarks/fleet.py 100000 --directory DIR --only http
    python benchmarks/fleet.py --report                          # this page again

Each size has a PostgreSQL of its own (its settings are PostgreSQL's, but for `fsync = off`) with
1,200 signed engines, ten verdicts each, nodes of eight GPUs in pools of 250 with three engines on
each and three assignments to each pool; eleven nodes in a hundred are otherwise than they should
be, one in a hundred is not heard. They are filled by the statements with which the service takes
reports. Everything goes through the whole code path. *Own* is processor time of the process that
asks. The last column is a peer in the same run, and how many times its cost the figure is.
"""


def keep(
    place: Path, nodes: int, part: str, figures: Sequence[Figure], load: tuple[float, float]
) -> None:
    """Writes one run of one part."""
    place.mkdir(parents=True, exist_ok=True)
    document = {
        "nodes": nodes, "part": part, "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(), "load_before": load[0], "load_after": load[1],
        "figures": [one.as_dict() for one in figures],
    }  # fmt: skip
    (place / f"fleet-{nodes}-{part}.json").write_text(json.dumps(document, indent=1) + "\n")


def report(place: Path) -> None:
    """Writes the page and the plot beside the directory of the runs that were kept."""
    runs = [json.loads(one.read_text()) for one in sorted(place.glob("fleet-*.json"))]
    sizes = sorted({run["nodes"] for run in runs})
    found = {(run["nodes"], one["name"]): one for run in runs for one in run["figures"]}
    (place.parent / "fleet.svg").write_text(_plot(sizes, found) + "\n")
    lines = [_INTRODUCTION]
    for size in reversed(sizes):
        lines += _table(size, [run for run in runs if run["nodes"] == size])
    lines += [
        "## Cost against the size of the fleet", "",
        "![milliseconds against nodes](fleet.svg)", "",
        f"| ms | {' | '.join(f'{one:,} nodes' for one in sizes)} |",
        "|---|" + "--:|" * len(sizes),
    ]  # fmt: skip
    for name in PLOTTED:
        cells = [_milliseconds(found.get((size, name))) for size in sizes]
        lines.append(f"| {_plotted(name)} | {' | '.join(cells)} |")
    (place.parent / "fleet.md").write_text("\n".join(lines) + "\n")


def _table(size: int, runs: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"## {size:,} nodes",
        "",
        "| | figure | promised | | against |",
        "|---|---|---|---|---|",
    ]
    measured = []
    for run in runs:
        before, after = run["load_before"], run["load_after"]
        measured.append(f"{run['part']} {run['at'][:16]} (load {before:.1f} to {after:.1f})")
        for one in run["figures"]:
            verdict = ("kept" if one["kept"] else "**not kept**") if one["promise"] else ""
            against = one["peer"]
            if one["ratio"] is not None:
                against += f": {one['ratio']:.1f} x"
            lines.append(
                f"| {one['name']} | {one['said']} | {one['promise']} | {verdict} | {against} |"
            )
    return [*lines, "", f"Measured on 2 processors, UTC: {'; '.join(measured)}.", ""]


def _plotted(name: str) -> str:
    return f"{name}, p99" if name.startswith("where") else name


def _milliseconds(figure: Mapping[str, Any] | None) -> str:
    return "" if figure is None else f"{figure['value']:,.1f}"


def _plot(sizes: Sequence[int], found: Mapping[tuple[int, str], Mapping[str, Any]]) -> str:
    """Returns milliseconds against nodes, both by powers of ten."""
    values = [one["value"] for (_, name), one in found.items() if name in PLOTTED]
    if not values:
        return "<svg xmlns='http://www.w3.org/2000/svg'/>"
    powers = (
        math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))),
        math.log10(sizes[0]), max(math.log10(sizes[-1]), math.log10(sizes[0]) + 1),
    )  # fmt: skip

    def x(nodes: int) -> float:
        share = (math.log10(nodes) - powers[2]) / (powers[3] - powers[2])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (math.log10(value) - powers[0]) / (powers[1] - powers[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    parts = [
        _grid(f"{10.0**power:g} ms", y(10.0**power)) for power in range(powers[0], powers[1] + 1)
    ]
    parts += [
        f'<text x="{x(one):.0f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">'
        f"{one:,} nodes</text>"
        for one in sizes
    ]
    for name, colour in zip(PLOTTED, _COLOURS, strict=True):
        points = [
            (x(size), y(found[size, name]["value"])) for size in sizes if (size, name) in found
        ]
        parts += _line(_plotted(name), colour, points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12"><title>Cost against the size of the fleet</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _grid(label: str, height: float) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" '
        f'stroke="#ddd"/><text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">'
        f"{label}</text>"
    )


def _line(name: str, colour: str, points: Sequence[tuple[float, float]]) -> list[str]:
    if not points:
        return []
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}',
        f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(name)}</text>',
    ]
