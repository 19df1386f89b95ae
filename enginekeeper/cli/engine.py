"""`engine`: what exists, what it is made of, why it passed or failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output, render_table

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from registry.keys import EngineKey
    from registry.types import Engine, Verdict

engine_argument = click.argument("engine_id", metavar="ENGINE")


@click.group()
def engine() -> None:
    """List, show, explain, compare and fetch engines; ENGINE is an id or the start of one."""


@engine.command("list")
@click.option("--model", help="Only engines of this model.")
@click.option("--recipe", help="Only engines of this recipe.")
@click.option("--target", help="Only engines for this target.")
@click.option("--variant", help="Only engines built as this variant.")
@json_option
def list_command(
    model: str | None, recipe: str | None, target: str | None, variant: str | None, as_json: bool
) -> int:
    """List engines, newest first, with their latest verdict."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.types import EngineFilter

    bench = open_bench()
    wanted = EngineFilter(model=model, recipe=recipe, target=target, variant=variant)
    rows = [_row(bench, one) for one in bench.registry.engines(wanted)]
    columns = ("engine", "variant", "result", "fidelity", "quality", "megabytes", "simulated")
    Output(as_json).table(rows, columns)
    return ExitCode.OK


@engine.command()
@engine_argument
@json_option
def show(engine_id: str, as_json: bool) -> int:
    """Show one engine: its key, where it is stored, who signed what."""
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    found = bench.registry.engine(engine_id)
    verdicts = [(one, _reference(bench, one)) for one in bench.registry.verdicts(found.digest)]
    document = {
        **found.as_dict(),
        "stored": bench.registry.locate(found.path),
        "verdicts": [{**one.as_dict(), "reference": reference} for one, reference in verdicts],
        "qualifications": [one.as_dict() for one in bench.registry.qualifications(found.digest)],
    }
    Output(as_json).document(document, _describe(bench, found, verdicts))
    return ExitCode.OK


@engine.command()
@engine_argument
@json_option
def explain(engine_id: str, as_json: bool) -> int:
    """Explain why an engine passed or failed: the evidence of its latest verdict, and its key."""
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.validation.report import render

    bench = open_bench()
    found = bench.registry.engine(engine_id)
    document = bench.registry.verdict_document(_latest(bench, found))
    key = {**found.key.as_dict(), "digest": str(found.key.digest())}
    text = f"{render(document)}\nWhat it was built from\n{_key_table(found.key)}"
    Output(as_json).document({**document, "key": key}, text)
    return ExitCode.OK


@engine.command()
@click.argument("first", metavar="ENGINE")
@click.argument("second", metavar="ENGINE")
@json_option
def diff(first: str, second: str, as_json: bool) -> int:
    """Show the key fields in which two engines differ, and what each difference means."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.keys import compare

    registry = open_bench().registry
    differences = compare(registry.engine(first).key, registry.engine(second).key)
    rows = [one.as_dict() for one in differences]
    output = Output(as_json)
    output.table(rows, ("layer", "field", "a", "b"))
    if not rows:
        output.note("the keys are equal: the same declared inputs")
    return ExitCode.OK


@engine.command()
@engine_argument
@click.option(
    "--to",
    "destination",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to write the engine into; must not exist.",
)
def fetch(engine_id: str, destination: Path) -> int:
    """Write an engine's files, after verifying signature, manifest and every byte.

    Run again after an interruption, it goes on from what is there and verified.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.fleet.placements import record_placement
    from enginekeeper.orchestration.bench import open_bench

    show_progress()
    bench = open_bench()
    found = bench.registry.fetch_engine(engine_id, destination)
    record_placement(bench.settings.home, found.digest, destination)
    Output().note(f"engine {found.digest.short} verified and written to {destination}")
    return ExitCode.OK


def _latest(bench: Bench, found: Engine) -> Verdict:
    from enginekeeper.errors import MissingError

    verdicts = bench.registry.verdicts(found.digest)
    if not verdicts:
        raise MissingError(
            "the engine was never judged",
            where=f"engine {found.digest.short}",
            remedy="enginekeeper build SPEC judges what it builds",
        )
    return verdicts[0]


def _row(bench: Bench, one: Engine) -> dict[str, Any]:
    verdicts = bench.registry.verdicts(one.digest)
    latest = verdicts[0] if verdicts else None
    return {
        "engine": one.digest.short,
        "variant": one.variant,
        "result": "unjudged" if latest is None else str(latest.result),
        "fidelity": None if latest is None else latest.fidelity,
        "quality": None if latest is None else latest.quality,
        "megabytes": f"{one.size / 1e6:.0f}",
        "simulated": "SIMULATED" if one.simulated else None,
        "digest": str(one.digest),
        "stored": bench.registry.locate(one.path),
        "summary": None if latest is None else latest.summary,
    }


def _key_table(key: EngineKey) -> str:
    fields = [
        {"layer": layer, "field": name, "value": value}
        for layer in ("hard", "soft", "info")
        for name, value in sorted(getattr(key, layer).items())
    ]
    return render_table(fields, ("layer", "field", "value"))


def _reference(bench: Bench, verdict: Verdict) -> str | None:
    """Names the reference that a verdict compared with; None in older verdicts."""
    document = bench.registry.verdict_document(verdict)
    reference: str | None = document.get("evidence", {}).get("reference")
    return reference


def _describe(bench: Bench, one: Engine, judged: Sequence[tuple[Verdict, str | None]]) -> str:
    lines = [f"engine    {one.digest}", f"variant   {one.variant}"]
    if one.simulated:
        lines.append("SIMULATED made by a double: never deployable on a real node")
    lines += [
        f"key       {one.key.digest()}",
        f"stored    {bench.registry.locate(one.path)}",
        f"recorded  {one.recorded_at.isoformat(timespec='seconds')}",
        "",
    ]
    lines.append(_key_table(one.key))
    verdicts = [
        {
            "verdict": verdict.digest.short,
            "result": str(verdict.result),
            "issued": verdict.issued_at.isoformat(timespec="seconds"),
            "environment": str(verdict.environment),
            "reference": reference,
        }
        for verdict, reference in judged
    ]
    columns = ("verdict", "result", "issued", "environment", "reference")
    lines.append(render_table(verdicts, columns))
    return "\n".join(lines)
