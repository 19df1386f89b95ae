"""SIMULATED: a stand-in for `trtllm-serve`: its command line, its schema, its refusals.

Started as `trtllm_serve.py TOLD ARGUMENTS...`; TOLD is a file that says which release it is and
what stands in for the engine. It refuses unknown fields as the real one's schema does (400, with
the body that NVIDIA's openai_server.py makes), log-probabilities where the release has none, and
more than one without generation logits.
"""

from __future__ import annotations

import argparse
import json
import sys
from http.server import HTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from _answers import Answering, BadRequestError, release_told  # noqa: E402 - only now on the path
from tensorrt_llm_release import BACKENDS_ALONE, PYTORCH_ONLY  # noqa: E402

FIELDS = frozenset({
    "model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs",
    "max_tokens", "n", "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix",
    "temperature", "top_p", "user", "lora_request", "use_beam_search", "top_k", "top_p_min",
    "min_p", "repetition_penalty", "length_penalty", "early_stopping", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens",
    "spaces_between_special_tokens", "truncate_prompt_tokens", "return_context_logits",
    "detokenize", "add_special_tokens", "response_format", "disaggregated_params",
})  # fmt: skip
"""Of CompletionRequest in serve/openai_protocol.py, whose schema forbids any other."""

WITHOUT_LOGPROBS = frozenset({"0.18.2", "0.19.0", "0.20.0", "0.21.0"})
PYTORCH_FIRST = ("1.", "2.")


def parse(version: str, words: list[str]) -> argparse.Namespace:
    """Parses the command line as the release does."""
    parser = argparse.ArgumentParser("trtllm-serve", allow_abbrev=False)
    parser.add_argument("model")
    alone = BACKENDS_ALONE if version in PYTORCH_ONLY else None
    parser.add_argument("--backend", choices=alone)
    for name in ("tokenizer", "host", "extra_llm_api_options", "log_level"):
        parser.add_argument(f"--{name}")
    for name in (
        "port", "max_beam_width", "max_batch_size", "max_num_tokens", "max_seq_len", "tp_size",
        "pp_size", "ep_size", "gpus_per_node", "num_postprocess_workers",
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--kv_cache_free_gpu_memory_fraction", type=float)
    parser.add_argument("--trust_remote_code", action="store_true")
    arguments = parser.parse_args(words)
    if by_pytorch(version, arguments) and not is_model(Path(arguments.model)):
        raise SystemExit("SIMULATED: the PyTorch backend, the default, loads no engine directory")
    if not (Path(arguments.tokenizer or "") / "tokenizer.json").is_file():
        raise SystemExit(f"OSError: Can't load tokenizer for '{arguments.tokenizer}'")
    return arguments


def by_pytorch(version: str, arguments: argparse.Namespace) -> bool:
    """Says whether the PyTorch backend serves: the default from 1.0 on."""
    return version.startswith(PYTORCH_FIRST) and arguments.backend not in ("trt", "tensorrt")


def is_model(directory: Path) -> bool:
    """Says whether a directory holds a model in Hugging Face's format."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("architectures"))


class Server:
    """Answers completions with the double of the LLM API."""

    def __init__(self, version: str, arguments: argparse.Namespace) -> None:
        import tensorrt_llm._llm as api  # noqa: PLC0415 - only now told which release it is

        self.version = version
        extra = arguments.extra_llm_api_options
        options = json.loads(Path(extra).read_text(encoding="utf-8")) if extra else {}
        self._gathers = bool(options.get("gather_generation_logits"))
        cache = options.pop("kv_cache_config", {})
        self._api = api
        backend = api.TorchLlm if by_pytorch(version, arguments) else api.EngineLlm
        told = {
            "tensor_parallel_size": arguments.tp_size or 1,
            "pipeline_parallel_size": arguments.pp_size or 1,
            **options,  # the file goes before the command line
            "gather_generation_logits": True,
        }
        self._llm = backend(
            model=arguments.model,
            skip_tokenizer_init=True,
            kv_cache_config=api.KvCacheConfig(**cache),
            **told,
        )
        self.model = Path(arguments.model).name

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers one request; raises BadRequestError for what the schema refuses."""
        for name in sorted(request.keys() - FIELDS):
            raise BadRequestError(
                f"[{{'type': 'extra_forbidden', 'loc': ('body', '{name}'), "
                f"'msg': 'Extra inputs are not permitted', 'input': {request[name]!r}}}]"
            )
        logprobs = request.get("logprobs")
        if logprobs and self.version in WITHOUT_LOGPROBS:
            raise BadRequestError("Value error, logprobs is not supported")
        if logprobs and logprobs > 1 and not self._gathers:
            raise BadRequestError(
                "`logprobs` must be 1 or `gather_generation_logits` must be `True` to use "
                "`logprobs` > 1"
            )
        prompts = request["prompt"]
        if not (isinstance(prompts, list) and prompts and isinstance(prompts[0], list)):
            raise BadRequestError("SIMULATED: the double takes lists of token ids only")
        choices = [self._choice(index, ids, request) for index, ids in enumerate(prompts)]
        return {
            "id": "cmpl-simulated", "object": "text_completion", "created": 0, "model": self.model,
            "choices": choices[::-1],  # they come as they finish
            "usage": {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0},
        }  # fmt: skip

    def _choice(self, index: int, ids: list[int], request: dict[str, Any]) -> dict[str, Any]:
        wanted = bool(request.get("return_context_logits"))
        parameters = self._api.SamplingParams(
            max_tokens=request.get("max_tokens", 16), end_id=0, pad_id=0, top_k=request["top_k"],
            ignore_eos=request.get("ignore_eos", False), return_generation_logits=True,
            return_context_logits=wanted, stop_token_ids=request.get("stop_token_ids"),
        )  # fmt: skip
        try:
            (answer,) = self._llm.generate([ids], sampling_params=parameters)
        except (ValueError, RuntimeError) as error:
            raise BadRequestError(str(error)) from error
        best = answer.outputs[0]
        rows = best.generation_logits.log_softmax(dim=-1)
        said = [float(row[token]) for row, token in zip(rows, best.token_ids, strict=True)]
        asked = request.get("logprobs")
        return {
            "index": index,
            "text": "SIMULATED" if request.get("detokenize", True) else "",
            "token_ids": None if request.get("detokenize", True) else best.token_ids,
            "logprobs": {
                "token_logprobs": said,
                "tokens": [],
                "text_offset": [],
                "top_logprobs": [],
            }
            if asked
            else None,
            "context_logits": answer.context_logits.tolist() if wanted else None,
            "finish_reason": best.finish_reason,
            "stop_reason": best.stop_reason,
        }


def handler_of(server: Server) -> type[Answering]:
    """Returns what answers the server's connections."""

    class Handler(Answering):
        def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
            answers: dict[str, Any] = {
                "/health": {},
                "/version": {"version": server.version},
                "/v1/models": {"object": "list", "data": [{"id": server.model}]},
            }
            found = answers.get(self.path)
            self.answer(404 if found is None else 200, found or {})

        def do_POST(self) -> None:  # noqa: N802 - http.server calls it so
            length = int(self.headers["Content-Length"])
            try:
                self.answer(200, server.complete(json.loads(self.rfile.read(length))))
            except BadRequestError as error:
                body = {
                    "object": "error", "message": str(error), "type": "BadRequestError",
                    "param": None, "code": 400,
                }  # fmt: skip
                self.answer(400, body)

    return Handler


def main() -> None:
    """Serves until it is killed."""
    version = release_told(sys.argv[1])
    arguments = parse(version, sys.argv[2:])
    server = Server(version, arguments)
    print("SIMULATED trtllm-serve", flush=True)
    HTTPServer(
        (arguments.host or "localhost", arguments.port or 8000), handler_of(server)
    ).serve_forever()


if __name__ == "__main__":
    main()
