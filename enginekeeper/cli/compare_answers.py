"""`compare-answers`: a task's answers, source against engine, by a paired test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from enginekeeper.cli._errors import exit_code_of_result
from enginekeeper.cli._options import NamedPath, Number, json_option
from enginekeeper.cli._output import Output


@click.command("compare-answers")
@click.argument("source", type=NamedPath())
@click.argument("engine", type=NamedPath())
@click.option(
    "--max-loss", type=Number(0.0, 1.0, min_open=True), default=0.01, show_default=True,
    help="Largest share of questions that the engine may answer rightly less often.",
)  # fmt: skip
@click.option(
    "--confidence", type=Number(0.5, 1.0, min_open=True, max_open=True), default=0.99,
    show_default=True, help="Of a pass, and of a failure.",
)  # fmt: skip
@json_option
def compare_answers(
    source: Path, engine: Path, max_loss: float, confidence: float, as_json: bool
) -> int:
    """Compare the answers of SOURCE and ENGINE to the same questions of a task.

    Files of JSON lines with "id" and "correct". Exits 0 pass, 5 fail, 6 inconclusive.
    """
    from enginekeeper.validation import answers

    pairs = answers.paired(answers.read_answers(source), answers.read_answers(engine))
    found = answers.compare_answers(pairs, max_loss=max_loss, confidence=confidence)
    Output(as_json).document(found, _text(found))
    return exit_code_of_result(found["result"])


def _text(found: Mapping[str, Any]) -> str:
    loss = (
        f"{str(found['result']).upper()}: the engine answers {found['loss']:+.2%} of the questions"
        f" less often rightly ({found['lower']:+.2%} to {found['upper']:+.2%}; at most"
        f" {found['limit']:.2%} is allowed)"
    )
    counts = (
        f"{found['questions']} questions: source {found['source']:.2%}, engine"
        f" {found['engine']:.2%}; {found['lost']} lost, {found['won']} won; one-sided p that it is"
        f" worse {found['p_worse']:.2g}"
    )
    needed = found["questions_to_decide"]
    more = [] if needed is None else [f"about {needed} questions like these would decide"]
    return "\n".join([loss, counts, *more, f"bounds: {found['method']}"]) + "\n"
