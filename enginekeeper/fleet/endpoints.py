"""What a serving process says of itself: evidence of its own kind, and only declared.

`trtllm-serve` and vLLM answer `/v1/models` (OpenAI's API); Triton answers
`/v2/models/NAME/config`, where the TensorRT-LLM backend has its engine's directory as
`gpt_model_path`. Which one it is, the recorded address says: one with `/v2/models/NAME` is Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.http_get import check_url
from enginekeeper.fleet.inventory import EndpointSays

_LIMIT = 1024 * 1024
_MOST = 64  # models of one server that are listed
_TRITON = "/v2/models/"
_GPT_MODEL_PATH = "gpt_model_path"


def ask_endpoint(endpoint: str, path: Path, get: Callable[..., str]) -> EndpointSays:
    """Returns what a server says of the engine that was started from a path; raises nothing."""
    base = endpoint.rstrip("/")
    triton = _TRITON in base
    source = f"{base}/config" if triton else f"{base}/v1/models"
    try:
        check_url(source, "endpoint of a run record")
        document = parse_json(get(source, limit=_LIMIT), source)
        models, places = _of_triton(document) if triton else _of_openai(document)
    except (UnavailableError, InputError) as error:
        return EndpointSays(ascii(source)[1:-1][:300], problem=error.what)
    if not all(one.isprintable() for one in (*models, *places)):
        return EndpointSays(source, problem="names with control characters")
    agrees = None if not places else any(_is_in(Path(one), path) for one in places)
    return EndpointSays(source, models[:_MOST], places[:_MOST], agrees)


def _of_openai(document: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        raise InputError("no list of models")
    models = [one for one in listed if isinstance(one, Mapping)]
    names = tuple(one["id"] for one in models if isinstance(one.get("id"), str))
    # vLLM says in `root` what it loaded; trtllm-serve's id is the last part of the path
    places = tuple(one["root"] for one in models if str(one.get("root", "")).startswith("/"))
    return names, places


def _of_triton(document: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(document, Mapping) or not isinstance(document.get("name"), str):
        raise InputError("no configuration of a model")
    return (document["name"],), tuple(_paths(document.get("parameters")))


def _paths(parameters: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    value = parameters.get(_GPT_MODEL_PATH) if isinstance(parameters, Mapping) else None
    text = value.get("string_value") if isinstance(value, Mapping) else None
    if isinstance(text, str) and text:
        yield text


def _is_in(told: Path, path: Path) -> bool:
    """Says whether two paths are one, whatever links lead there."""
    try:
        return told.resolve() == path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
