"""A verdict document as one HTML file: no script, no request, readable when one was just paged.

Works on the stored document alone. What an older document lacks is said to be not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from enginekeeper.errors import InputError
from enginekeeper.reports import plots
from enginekeeper.reports.plots import Curve

READABLE = (1, 2)
"""The schemas of verdict documents that this version draws."""

_EXPECTED = "what `ek validate --json` or `ek engine explain --json` prints"

_NEEDED = ("result", "summary", "fidelity", "quality", "checks", "audits", "faults", "policy")

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """Whose verdict it is, as far as the document does not say it."""

    title: str
    """A file's name, or an engine's digest."""
    verified: bool
    """Whether the document came from the registry with a signature that was verified."""


def render_page(document: Document, subject: Subject) -> str:
    """Renders a verdict document; raises InputError for what is none."""
    _check(document, subject)
    try:
        return _page(document, subject)
    except (UndefinedError, LookupError, TypeError, AttributeError, ValueError) as error:
        if subject.verified:
            raise  # what was signed is whole: a defect of ours
        raise InputError(
            "not a verdict document: a part of it is missing or of another kind",
            where=subject.title,
            actual=error,
            expected=_EXPECTED,
        ) from error


def _page(document: Document, subject: Subject) -> str:
    environment = Environment(
        loader=PackageLoader("enginekeeper.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    fidelity = document["fidelity"]
    page = environment.get_template("verdict.html.j2").render(
        document=document,
        subject=subject,
        simulated=document.get("simulated", False),
        culprit=document["faults"][0] if document["faults"] else None,
        by_position=_by_position(fidelity, document),
        power=_power(fidelity),
        triangle=_triangle(document),
        tensors=_tensors(document),
        windows=fidelity.get("windows", []),
        strata=_strata(document),
        classes=fidelity.get("token_classes", {}),
        run=document.get("sequential"),
        unasked=_not_run(document),
    )
    return page + "\n"


def _check(document: Document, subject: Subject) -> None:
    missing = [name for name in _NEEDED if name not in document]
    if missing:
        raise InputError(
            "not a verdict document", where=subject.title, actual=f"no {', '.join(missing)}",
            expected=_EXPECTED,
        )  # fmt: skip
    if document.get("schema") not in READABLE:
        raise InputError(
            "a verdict document of another version",
            where=subject.title,
            actual=document.get("schema"),
            expected=f"schema {' or '.join(map(str, READABLE))}",
        )


def _number(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, (int, float)) else "" if value is None else str(value)
    )


def _by_position(fidelity: Document, document: Document) -> Markup:
    rows = fidelity.get("positions", [])
    middle = [(row["from"] + (row["to"] or 2 * row["from"])) / 2 + 1 for row in rows]
    limit = _check_named(document, "fidelity.kl").get("limit")
    curves = [
        Curve("engine", "engine", _points(middle, rows, "kl")),
        Curve("engine, 99th percentile", "tail", _points(middle, rows, "p99")),
        Curve("noise alone", "noise", _points(middle, rows, "noise")),
        Curve("limit of the mean", "limit", [(x, limit) for x in middle]),
    ]
    drawn = [one for one in curves if any(y is not None for _, y in one.points)]
    return plots.lines(
        "Divergence from the recipe by position", drawn,
        x_log=True, y_log=True, x_label="position in the prompt",
    )  # fmt: skip


def _points(
    places: list[float], rows: list[dict[str, Any]], name: str
) -> list[tuple[float, float | None]]:
    return [(place, row[name]) for place, row in zip(places, rows, strict=True)]


def _power(fidelity: Document) -> Markup:
    rows = fidelity.get("power", [])
    curve = Curve("chance to fail", "engine", [(row["kl"], row["fails"]) for row in rows])
    return plots.lines(
        "What this run could have seen", [curve], x_log=True,
        x_label="divergence from the recipe, nats per position",
    )  # fmt: skip


def _triangle(document: Document) -> Markup:
    sides = {
        "recipe": _check_named(document, "recipe.kl").get("value"),
        "quality": _check_named(document, "quality.kl").get("value"),
        "fidelity": _check_named(document, "fidelity.kl").get("value"),
    }
    return plots.triangle("Source, recipe twin and engine", sides)


def _check_named(document: Document, name: str) -> Document:
    return next((one for one in document["checks"] if one["check"] == name), {})


def _not_run(document: Document) -> list[str]:
    """Names the checks and audits that were not run, as the verdict lists them."""
    listed = (*document["audits"], *document["checks"])
    return [one["check"] for one in listed if one["result"] == "not run"]


def _tensors(document: Document) -> Markup:
    errors: Mapping[str, Any] = {}
    for audit in document["audits"]:
        if audit["check"] == "weights":
            errors = audit["examined"].get("errors", {})
    return plots.heat_map("Error of every tensor beside an honest export", errors)


def _strata(document: Document) -> list[tuple[str, Any, Any]]:
    """Returns each kind of text with both divergences."""
    ours, cost = (document[name].get("strata", {}) for name in ("fidelity", "quality"))
    return [(name, ours.get(name), cost.get(name)) for name in {**ours, **cost}]
