"""`lineage`: what something came from, and what came of it."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command()
@click.argument("reference", metavar="ID")
@click.option("--mermaid", "form", flag_value="mermaid", help="Print a Mermaid flowchart.")
@click.option("--dot", "form", flag_value="dot", help="Print a Graphviz graph.")
@json_option
def lineage(reference: str, form: str | None, as_json: bool) -> int:
    """Show what ID came from and what came of it: weights to channels and nodes.

    ID is that of a model, checkpoint, reference, engine or verdict, or the start of one, or a
    model's name.
    """
    from enginekeeper.cli import _lineage_text as text
    from enginekeeper.orchestration.bench import open_bench
    from registry.lineage import lineage as trace

    render = {"mermaid": text.mermaid, "dot": text.dot, None: text.tree}[form]
    graph = trace(open_bench().registry, reference)
    Output(as_json).document(graph.as_dict(), render(graph))
    return ExitCode.OK
