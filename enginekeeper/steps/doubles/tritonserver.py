"""SIMULATED: a stand-in for `tritonserver` with its TensorRT-LLM backend.

Started as `tritonserver.py TOLD ARGUMENTS...`; TOLD is a file that says which release it is and
what stands in for the engine. What a request may hold is what the `config.pbtxt` of the model
repository says, as with the real one: a tensor that is not in it, of another type or another shape,
or one that is missing, is refused in the words of Triton's core (infer_request.cc, model.cc).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from http.server import HTTPServer
from math import prod
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from _answers import Answering, BadRequestError, release_told  # noqa: E402 - only now on the path

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model, as its configuration declares it."""

    datatype: str
    dims: tuple[int, ...]
    optional: bool


def parse(words: list[str]) -> argparse.Namespace:
    """Parses the command line strictly: an option that is not known ends the server."""
    parser = argparse.ArgumentParser("tritonserver", allow_abbrev=False)
    for name in ("model-repository", "http-address", "allow-grpc", "allow-metrics"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--http-port", type=int)
    return parser.parse_args(words)


def read_pbtxt(text: str) -> dict[str, list[Any]]:
    """Returns the fields of a message in text format, each as the list of its values."""
    tokens = _TOKENS.findall(text)
    fields, rest = _message(tokens, 0)
    if rest != len(tokens):
        raise SystemExit("SIMULATED: config.pbtxt ends in the middle")
    return fields


def _message(tokens: list[str], at: int) -> tuple[dict[str, list[Any]], int]:
    fields: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at] != "}":
        if tokens[at] == ",":
            at += 1
            continue
        name = tokens[at]
        at += 2 if tokens[at + 1] == ":" else 1
        values, at = _values(tokens, at)
        fields.setdefault(name, []).extend(values)
    return fields, at


def _values(tokens: list[str], at: int) -> tuple[list[Any], int]:
    if tokens[at] != "[":
        value, at = _value(tokens, at)
        return [value], at
    at, values = at + 1, []
    while tokens[at] != "]":
        if tokens[at] == ",":
            at += 1
            continue
        value, at = _value(tokens, at)
        values.append(value)
    return values, at + 1


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    if tokens[at] == "{":
        fields, at = _message(tokens, at + 1)
        return fields, at + 1
    word = tokens[at]
    return (json.loads(word) if word.startswith('"') else word), at + 1


def _tensors(config: dict[str, list[Any]], kind: str) -> dict[str, Tensor]:
    return {
        one["name"][0]: Tensor(
            one["data_type"][0].removeprefix("TYPE_"),
            tuple(map(int, one["dims"])),
            one.get("optional") == ["true"],
        )
        for one in config.get(kind, [])
    }


class Server:
    """The one model of a repository, answered by the double of the LLM API."""

    def __init__(self, repository: Path) -> None:
        import tensorrt_llm._llm as api  # noqa: PLC0415 - only now told which release it is

        (place,) = [one for one in repository.iterdir() if one.is_dir()]
        config = read_pbtxt((place / "config.pbtxt").read_text(encoding="utf-8"))
        if config["name"] != [place.name] or not (place / "1").is_dir():
            raise SystemExit(f"SIMULATED: failed to load '{place.name}': no version")
        told = {one["key"][0]: one["value"][0]["string_value"][0] for one in config["parameters"]}
        self.model = place.name
        self.inputs, self.outputs = _tensors(config, "input"), _tensors(config, "output")
        engine = json.loads((Path(told["gpt_model_path"]) / "config.json").read_text("utf-8"))
        mapping = engine["pretrained_config"].get("mapping") or {}
        reuse = told.get("enable_kv_cache_reuse", "false") == "true"
        self._api = api
        self._llm = api.EngineLlm(
            model=told["gpt_model_path"],
            skip_tokenizer_init=True,
            tensor_parallel_size=mapping.get("tp_size", 1),
            pipeline_parallel_size=mapping.get("pp_size", 1),
            kv_cache_config=api.KvCacheConfig(enable_block_reuse=reuse),
            gather_generation_logits=True,
        )

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers one request; raises BadRequestError for what the model does not declare."""
        given = {one["name"]: self._input(one) for one in request.get("inputs") or []}
        for name, declared in self.inputs.items():
            if not declared.optional and name not in given:
                raise BadRequestError(
                    f"expected {len(self.inputs)} inputs but got {len(given)} inputs for model "
                    f"'{self.model}'"
                )
        wanted = [one["name"] for one in request.get("outputs") or []] or list(self.outputs)
        for name in wanted:
            if name not in self.outputs:
                raise BadRequestError(
                    f"unexpected inference output '{name}' for model '{self.model}'"
                )
        made = self._generated(given)
        answers = [
            {
                "name": name,
                "datatype": self.outputs[name].datatype,
                "shape": made[name][0],
                "data": made[name][1],
            }
            for name in wanted
            if name in made
        ]
        return {"model_name": self.model, "model_version": "1", "outputs": answers[::-1]}

    def _input(self, one: dict[str, Any]) -> list[Any]:
        name, shape, data = one["name"], one["shape"], one["data"]
        declared = self.inputs.get(name)
        if declared is None:
            raise BadRequestError(f"unexpected inference input '{name}' for model '{self.model}'")
        if one["datatype"] != declared.datatype:
            raise BadRequestError(
                f"inference input '{name}' data-type is '{one['datatype']}', but model "
                f"'{self.model}' expects '{declared.datatype}'"
            )
        expected = (-1, *declared.dims)  # the batch comes before what is declared
        same = len(shape) == len(expected) and all(
            want in (-1, got) for want, got in zip(expected, shape, strict=True)
        )
        if not same:
            raise BadRequestError(
                f"unexpected shape for input '{name}' for model '{self.model}'. Expected "
                f"[{','.join(map(str, expected))}], got [{','.join(map(str, shape))}]"
            )
        if len(data) != prod(shape):
            raise BadRequestError(f"unable to parse 'data': Shape does not match true shape of "
                                  f"'data' field, for input '{name}'")  # fmt: skip
        return list(data)

    def _generated(self, given: dict[str, list[Any]]) -> dict[str, tuple[list[int], list[Any]]]:
        ids = given["input_ids"]
        if given["input_lengths"] != [len(ids)] or given.get("runtime_top_k") != [1]:
            raise BadRequestError("SIMULATED: the double takes whole prompts, greedily")
        context = given.get("return_context_logits") == [True]
        parameters = self._api.SamplingParams(
            max_tokens=given["request_output_len"][0], end_id=-1, pad_id=0, top_k=1,
            ignore_eos="end_id" not in given, return_generation_logits=True,
            return_context_logits=context,
        )  # fmt: skip
        try:
            (answer,) = self._llm.generate([ids], sampling_params=parameters)
        except (ValueError, RuntimeError) as error:
            raise BadRequestError(str(error)) from error
        best = answer.outputs[0]
        rows = best.generation_logits.log_softmax(dim=-1)
        said = [float(row[token]) for row, token in zip(rows, best.token_ids, strict=True)]
        shown = best.token_ids
        if given.get("exclude_input_in_output") != [True]:
            shown = [*ids, *shown]
        made: dict[str, tuple[list[int], list[Any]]] = {
            "output_ids": ([1, 1, len(shown)], list(shown)),
            "sequence_length": ([1, 1], [len(shown)]),
        }
        if given.get("return_log_probs") == [True]:
            made["output_log_probs"] = ([1, 1, len(said)], said)
        if context:
            logits = answer.context_logits
            made["context_logits"] = ([1, *logits.shape], logits.flatten().tolist())
        return made


def handler_of(server: Server) -> type[Answering]:
    """Returns what answers the server's connections."""
    model = f"/v2/models/{server.model}"

    class Handler(Answering):
        def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
            ready = self.path in ("/v2/health/ready", f"{model}/ready")
            self.answer(200 if ready else 404, None if ready else {"error": "not found"})

        def do_POST(self) -> None:  # noqa: N802 - http.server calls it so
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != f"{model}/infer":
                self.answer(
                    400, {"error": f"Request for unknown model: '{self.path}' is not found"}
                )
                return
            try:
                self.answer(200, server.infer(request))
            except BadRequestError as error:
                self.answer(400, {"error": str(error)})

    return Handler


def main() -> None:
    """Serves until it is killed."""
    release_told(sys.argv[1])
    arguments = parse(sys.argv[2:])
    server = Server(Path(arguments.model_repository))
    print("SIMULATED tritonserver", flush=True)
    address = (arguments.http_address or "0.0.0.0", arguments.http_port or 8000)  # noqa: S104
    HTTPServer(address, handler_of(server)).serve_forever()


if __name__ == "__main__":
    main()
