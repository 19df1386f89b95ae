"""Plots as inline SVG: no script, no font, no file beside; every text is escaped.

Colours come from the page's style sheet by class, so that a page printed or read in the dark works.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 36

LEAST = 1e-12
"""Nats; what is smaller is drawn here on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """Points of one line; those without a value are left out."""

    label: str
    css: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Axis:
    """From values to places; logarithmic or not."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Returns the place of a value; outside values stand on the edge."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / ((high - low) or 1.0)
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, LEAST)) if self.log else value

    def ticks(self) -> list[tuple[float, str]]:
        """Returns values to be marked, with how they are written."""
        if not self.log:
            steps = [self.low + (self.high - self.low) * part / 4 for part in range(5)]
            return [(value, f"{value:.3g}") for value in steps]
        first, last = math.ceil(self._scaled(self.low)), math.floor(self._scaled(self.high))
        stride = max(1, math.ceil((last - first) / 6))
        powers = [(10.0**one, f"1e{one}") for one in range(first, last + 1, stride)]
        ends = [(self.low, f"{self.low:.2g}"), (self.high, f"{self.high:.2g}")]
        return powers if len(powers) > 1 else ends


def lines(
    title: str, curves: Sequence[Curve], *, x_log: bool = False, y_log: bool = False, x_label: str
) -> Markup:
    """Draws curves over a common axis; nothing where no curve has a point."""
    known = [(x, y) for curve in curves for x, y in curve.points if y is not None]
    if not known:
        return Markup('<p class="none">not measured</p>')
    xs, ys = [x for x, _ in known], [y for _, y in known]
    across = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, x_log)
    low = min(ys) / 2 if y_log else 0.0
    up = Axis(low, max(ys) * (2 if y_log else 1.05) or 1.0, HEIGHT - BOTTOM, TOP, y_log)
    parts = [_frame(across, up, x_label)]
    for number, curve in enumerate(curves):
        points = [(across.at(x), up.at(y)) for x, y in curve.points if y is not None]
        if points:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(Markup('<polyline class="{}" points="{}"/>').format(curve.css, path))
            dots = [
                Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
                    curve.css, x, y
                )
                for x, y in points
            ]
            parts += dots
        parts.append(
            Markup('<text class="{} key" x="{}" y="{}">{}</text>').format(
                curve.css, LEFT + 8, TOP + 12 + 14 * number, curve.label
            )
        )
    return _svg(title, Markup("").join(parts), WIDTH, HEIGHT)


def _frame(across: Axis, up: Axis, x_label: str) -> Markup:
    parts = [
        Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM
        )
    ]
    for value, text in across.ticks():
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                across.at(value), HEIGHT - BOTTOM + 14, text
            )
        )
    for value, text in up.ticks():
        place = up.at(value)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(LEFT, place, WIDTH - RIGHT, place, LEFT - 6, place + 4, text)
        )
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label
        )
    )
    return Markup("").join(parts)


def heat_map(title: str, errors: Mapping[str, Sequence[float]]) -> Markup:
    """Draws one cell per tensor, layers across and linears down, by how far it is from honest."""
    if not errors:
        return Markup('<p class="none">the weights were not audited</p>')
    places = {name: _place(name) for name in errors}
    rows = sorted({row for row, _ in places.values()})
    columns = sorted({column for _, column in places.values()})
    cell = max(4, min(18, (WIDTH - 150) // max(len(columns), 1)))
    parts = []
    for name, (row, column) in places.items():
        gain, ratio = errors[name][0], errors[name][1]
        x, y = 140 + columns.index(column) * cell, 8 + rows.index(row) * 18
        parts.append(
            Markup(
                '<rect class="heat{}" x="{}" y="{}" width="{}" height="16">'
                "<title>{}: gain {:+.4g}, error {:.4g} times an honest one</title></rect>"
            ).format(_warmth(gain, ratio), x, y, cell - 1, name, gain, ratio)
        )
    for number, row in enumerate(rows):
        parts.append(
            Markup('<text class="tick" x="134" y="{}" text-anchor="end">{}</text>').format(
                8 + number * 18 + 12, row
            )
        )
    return _svg(title, Markup("").join(parts), WIDTH, 16 + 18 * len(rows))


def _place(name: str) -> tuple[str, int]:
    """Returns row and column of a module: what it is, and its layer; -1 for what is in none."""
    words = name.split(".")
    numbers = [int(word) for word in words if word.isdecimal()]
    return words[-1], (numbers[0] if numbers else -1)


def _warmth(gain: float, ratio: float) -> int:
    """Returns 0 for an honest tensor to 4 for a destroyed one."""
    off = max(abs(gain) * 100.0, (ratio - 1.0) * 10.0)
    return sum(off >= limit for limit in (0.3, 1.0, 5.0, 25.0))


_SIDES = {
    "recipe": ("source", "twin"),
    "quality": ("source", "engine"),
    "fidelity": ("twin", "engine"),
}


def triangle(title: str, sides: Mapping[str, float | None]) -> Markup:
    """Draws source, recipe twin and engine with the divergence on each side."""
    corners = {"source": (320, 24), "twin": (110, 170), "engine": (530, 170)}
    parts = []
    for name, (a, b) in _SIDES.items():
        (x1, y1), (x2, y2) = corners[a], corners[b]
        value = sides.get(name)
        text = "not measured" if value is None else f"{value:.3g} nats"
        parts.append(
            Markup(
                '<line class="side" x1="{}" y1="{}" x2="{}" y2="{}"/>'
                '<text class="label" x="{}" y="{}" text-anchor="middle">{}: {}</text>'
            ).format(x1, y1, x2, y2, (x1 + x2) / 2, (y1 + y2) / 2 - 6, name, text)
        )
    for name, (x, y) in corners.items():
        parts.append(
            Markup(
                '<circle class="corner" cx="{}" cy="{}" r="6"/>'
                '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
            ).format(x, y, x, y + 22, name)
        )
    return _svg(title, Markup("").join(parts), WIDTH, 200)


def _svg(title: str, inside: Markup, width: int, height: int) -> Markup:
    return Markup(
        '<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(width, height, escape(title), title, inside)
