"""What an engine key consists of, and in which fields two of them differ."""

from __future__ import annotations

from typing import Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command()
@click.argument("first", metavar="ENGINE")
@click.argument("second", metavar="ENGINE")
@json_option
def diff(first: str, second: str, as_json: bool) -> int:
    """Show the key fields in which two engines differ, and what each difference means.

    A hard field: another engine is needed. A soft one: the same engine is judged again. Info is
    recorded and decides nothing.
    """
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


@click.command()
@click.argument("engine_id", metavar="ENGINE")
@json_option
def explain(engine_id: str, as_json: bool) -> int:
    """Explain the key of ENGINE: every field, what it is, and what a difference in it means."""
    from enginekeeper.orchestration.bench import open_bench

    registry = open_bench().registry
    found = registry.engine(engine_id)
    registry.verify_engine(found)
    rows = key_rows(found.key)
    output = Output(as_json)
    output.table(rows, ("layer", "field", "value", "meaning"))
    output.note(
        f"key {found.key.digest()}, over the hard fields alone; its builder signed it\n"
        "hard: differs → another engine; soft: differs → judged again; info: recorded only"
    )
    return ExitCode.OK


def key_rows(key: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - an EngineKey, imported lazily
    """Returns a row for each field of a key, layer by layer, with what the field is."""
    from registry.keys import HARD_FIELDS, SOFT_FIELDS

    meanings = {"hard": HARD_FIELDS, "soft": SOFT_FIELDS, "info": {}}
    return [
        {"layer": layer, "field": name, "value": value, "meaning": meanings[layer].get(name)}
        for layer in meanings
        for name, value in sorted(getattr(key, layer).items())
    ]
