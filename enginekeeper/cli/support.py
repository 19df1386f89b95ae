"""`support`: by what a model can be served, before anything is built for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output, render_table

if TYPE_CHECKING:
    from enginekeeper.specs.support import ModelSupport


@click.command()
@click.argument("model")
@json_option
def support(model: str, as_json: bool) -> int:
    """Show whether MODEL can be served as an engine, by the PyTorch backend, or by vLLM only.

    MODEL is a Hugging Face directory, its config.json, or the name of an architecture.
    """
    from enginekeeper.specs.support import support_of

    found = support_of(_architecture(model))
    document = _document(found)
    text = render_table(document["routes"], ("route", "listed", "releases"))
    Output(as_json).document(document, f"{found.architecture}: {found.route}\n\n{text}")
    if not as_json:
        Output().note(f"next: {found.advice}")
    return ExitCode.OK


def _document(found: ModelSupport) -> dict[str, Any]:
    releases = found.engine_releases
    span = f"{releases[0]} to {releases[-1]}" if releases else None
    engine = {"route": "engine", "listed": "yes" if releases else "no", "releases": span}
    return {
        "architecture": found.architecture,
        "route": str(found.route),
        "engine_releases": list(releases),
        "routes": [engine, *_other_routes(found)],
        "sources": {str(route): one.source for route, one in found.listed.items()},
        "fallback": found.can_fall_back,
        "next": found.advice,
    }


def _other_routes(found: ModelSupport) -> list[dict[str, Any]]:
    from enginekeeper.specs.support import Route, vllm_release

    of = {Route.PYTORCH: "tensorrt-llm", Route.AUTODEPLOY: "tensorrt-llm", Route.VLLM: "vllm"}
    rows = []
    for route, product in of.items():
        one = found.listed.get(route)
        listed = "no" if one is None else "yes, multimodal" if one.multimodal else "yes"
        since = None if one is None else f"{product} {one}"
        if route is Route.VLLM and found.last_vllm is not None and one is None:
            since = f"vllm {found.last_vllm} was the last; {vllm_release()} is used here"
        rows.append({"route": str(route), "listed": listed, "releases": since})
    return rows


def _architecture(model: str) -> str:
    from pathlib import Path

    from enginekeeper.documents import read_json_object
    from enginekeeper.errors import InputError, MissingError

    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    elif model.isidentifier():
        return model
    elif not path.is_file():
        raise MissingError(
            "no such directory, file or architecture",
            where=model[:200],
            expected="a Hugging Face directory, or a name such as LlamaForCausalLM",
        )
    names = read_json_object(path).get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(
            "architectures is not usable",
            where=str(path),
            actual=repr(names)[:200],
            expected="a list with the name of the model's class",
        )
    return names[0]
