"""`export`: how an engine is handed to a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Command, NamedPath, Number, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from enginekeeper.serving.commands import Listening
    from registry.keys import EngineKey


@click.group()
def export() -> None:
    """Write what a server needs to load an engine; the engine itself is not loaded.

    ENGINE_DIR is what `pull` or `engine export` wrote: its bytes and signatures are verified first.
    Whether it may run on a node, `run-check` asks there; the commands begin with it.
    """


def _shared(command: Command) -> Command:
    options: list[Callable[[Command], Command]] = [
        click.argument("engine_dir", type=NamedPath()),
        click.option(
            "--output", "target", type=click.Path(path_type=Path), metavar="DIRECTORY",
            help="Write there, whole or not at all; must not exist.",
        ),
        click.option(
            "--place", metavar="PATH",
            help="Where the server will find the engine, if not where it is now.",
        ),
        click.option("--host", default="127.0.0.1", show_default=True, help="Listen there."),
        click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True),
        click.option(
            "--memory", type=Number(0.05, 0.99), default=0.9, show_default=True,
            help="Part of a GPU's memory for keys and values; of vLLM, for everything.",
        ),
        json_option,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@export.command()
@_shared
@click.option("--streaming", is_flag=True, help="Let Triton answer token by token.")
def triton(engine_dir: Path, target: Path | None, place: str | None, streaming: bool,
           **more: Any) -> int:  # noqa: ANN401 - click's values  # fmt: skip
    """Write a Triton model repository for the TensorRT-LLM backend, and say how to start it.

    The model takes and gives token ids; NVIDIA's models that handle text come with the container.
    A weight-stripped engine is loaded from where `ek pull` refitted it.
    """
    from enginekeeper.errors import InputError
    from enginekeeper.orchestration.loadable import stripped_in, with_weights
    from enginekeeper.serving.commands import tritonserver
    from enginekeeper.serving.engine import served_engine
    from enginekeeper.serving.triton import model_repository

    files, key = _verified(engine_dir)
    engine, at = served_engine(files, key), _listening(more)
    if place is not None and stripped_in(files):
        raise InputError(
            "where the engine has its weights is not known there", where=f"--place {place}",
            expected="no --place: a repository names the refitted engine of the node it is for",
            remedy="export on the node that pulled it, from where it pulled it to",
        )  # fmt: skip
    loaded = place or str(with_weights(files.parent))
    made = model_repository(engine, loaded, streaming=streaming, memory=at.memory)
    where = "DIRECTORY" if target is None else str(target.absolute())
    return _told(tritonserver(engine, where, at), made, target, place or files, more["as_json"])


@export.command("trtllm-serve")
@_shared
@click.option("--tokenizer", type=NamedPath(), metavar="DIRECTORY", help="Of the model.")
def trtllm_serve(engine_dir: Path, target: Path | None, place: str | None, **more: Any) -> int:  # noqa: ANN401 - click's values
    """Say how `trtllm-serve` of the engine's release is started on it."""
    from enginekeeper.serving.commands import trtllm_serve as command_of
    from enginekeeper.serving.commands import trtllm_serve_bundle
    from enginekeeper.serving.engine import PYTORCH, served_engine
    from enginekeeper.serving.servers import serve_row

    files, key = _verified(engine_dir)
    if key.hard.get("builder") == PYTORCH:
        command = trtllm_serve_bundle(files, key, place or "{engine}", _listening(more))
        return _told(command, {}, target, place or files, more["as_json"])
    engine = served_engine(files, key)
    command = command_of(engine, place or "{engine}", _listening(more))
    row = serve_row(engine.release)
    if not row.verified:
        Output(more["as_json"]).note(
            f"not verified for {engine.release}: --backend {row.backend or '(left out)'}"
        )
    return _told(command, {}, target, place or files, more["as_json"])


@export.command()
@_shared
@click.option("--tokenizer", type=NamedPath(), metavar="DIRECTORY", help="If not in ENGINE_DIR.")
@click.option("--name", metavar="NAME", help="What clients call the model.")
def vllm(engine_dir: Path, target: Path | None, place: str | None, **more: Any) -> int:  # noqa: ANN401 - click's values
    """Say how vLLM is started on a serving bundle or checkpoint; it loads no TensorRT engine."""
    from enginekeeper.serving.commands import vllm as command_of

    files, key = _verified(engine_dir)
    command = command_of(files, key, place or "{engine}", _listening(more))
    return _told(command, {}, target, place or files, more["as_json"])


def _verified(directory: Path) -> tuple[Path, EngineKey]:
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.run_check import verified

    evidence, files = verified(open_bench(), directory)
    return files, evidence.key


def _listening(more: Mapping[str, Any]) -> Listening:
    from enginekeeper.serving.commands import Listening

    names = ("host", "port", "memory", "tokenizer", "name")
    given = {name: more[name] for name in names if more.get(name) is not None}
    if "tokenizer" in given:
        given["tokenizer"] = given["tokenizer"].absolute()
    return Listening(**given)


def _told(
    command: list[str], made: dict[str, str], target: Path | None, place: Path | str, as_json: bool
) -> int:
    import shlex

    from enginekeeper.serving.commands import as_json as listed
    from enginekeeper.serving.writing import write_new

    whole = ["ek", "run-check", str(place), "--", *command]
    if target is not None:
        write_new(target, {**made, "command.json": listed(whole)})
    document = {"command": whole, "files": made, "output": target and str(target.absolute())}
    Output(as_json).document(document, shlex.join(whole))
    return ExitCode.OK
