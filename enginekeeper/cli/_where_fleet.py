"""`where` over the fleet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from enginekeeper.cli._bundles import variant_of
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._output import Output
from enginekeeper.fleet.health import age
from enginekeeper.fleet.whereabouts import Question, Whereabouts, short, whereabouts
from enginekeeper.orchestration.bench import Bench
from registry.versions import VersionRange

_NOW = ("node", "engine", "variant", "path", "bytes", "evidence", "gpus", "driver", "heard")
_THEN = ("node", "engine", "variant", "path", "bytes", "evidence", "gpus", "driver", "since",
         "until")  # fmt: skip


def show_fleet(
    bench: Bench, output: Output, *, cuda: str | None, driver: str | None, **asked: Any  # noqa: ANN401 - of Question
) -> int:  # fmt: skip
    """Prints the answer, newest evidence or as of a time."""
    question = Question(
        cuda=None if cuda is None else VersionRange.parse(cuda, where="--cuda"),
        driver=None if driver is None else VersionRange.parse(driver, where="--driver"),
        **asked,
    )
    now = datetime.now(UTC)
    with bench.registry.catalogue.read() as view:
        found = whereabouts(view, question, now)
    if output.as_json:
        output.json([one.as_dict() for one in found])
        return ExitCode.OK
    output.table([_row(one, now) for one in found], _NOW if question.at is None else _THEN)
    if any(one.placed.simulated for one in found):
        output.note("SIMULATED: some of these nodes are no real ones")
    if stale := {one.placed.node for one in found if one.stale}:
        output.note(f"{len(stale)} of these nodes were not heard lately: what they have may be old")
    if question.at is not None and question.gpu_uuid is not None:
        output.note("a GPU is looked for where it is now: what it ran in another node is not here")
    if question.limit is not None and len(found) == question.limit:
        output.note(f"the first {question.limit} rows; there may be more")
    return ExitCode.OK


def _row(one: Whereabouts, now: datetime) -> dict[str, Any]:
    placed = one.placed
    heard = "never" if placed.seen_at is None else age(placed.seen_at, now)
    return {
        "node": f"{placed.node} SIMULATED" if placed.simulated else placed.node,
        "engine": short(placed.engine),
        "variant": "UNKNOWN"
        if (named := one.named) is None
        else variant_of(named.variant, named.recipe),
        "path": placed.path,
        "bytes": placed.bytes,
        "evidence": one.evidence,
        "gpus": " ".join(placed.devices or ()),
        "driver": placed.driver,
        "heard": f"{heard} STALE" if one.stale else heard,
        "since": placed.since.isoformat(timespec="seconds"),
        "until": None if placed.until is None else placed.until.isoformat(timespec="seconds"),
    }
