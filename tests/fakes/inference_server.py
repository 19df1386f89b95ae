"""A stand-in for a server of engines, as a process: answers as strictly as the real one would.

SIMULATED: loads nothing. `python inference_server.py vllm|trtllm-serve|triton PORT DIRECTORY`. The
answers are those of vllm/entrypoints/openai/protocol.py (ModelCard), tensorrt_llm/serve/
openai_server.py (`get_model`) and Triton's model configuration extension; every other path is 404.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answers(kind: str, directory: str) -> dict[str, Any]:
    """Returns what each path of a kind of server answers."""
    card: dict[str, Any] = {"id": "llama", "object": "model", "created": 1764122400}
    if kind == "vllm":
        more = {"owned_by": "vllm", "root": directory, "parent": None, "max_model_len": 4096,
                "permission": [{"id": "modelperm-1", "object": "model_permission"}]}  # fmt: skip
        return {"/v1/models": {"object": "list", "data": [{**card, **more}]}}
    if kind == "trtllm-serve":
        return {"/v1/models": {"object": "list", "data": [{**card, "owned_by": "tensorrt_llm"}]}}
    parameters = {
        "gpt_model_path": {"string_value": directory},
        "gpt_model_type": {"string_value": "inflight_fused_batching"},
    }
    return {
        "/v2/models/tensorrt_llm/config": {
            "name": "tensorrt_llm", "platform": "", "backend": "tensorrtllm", "max_batch_size": 4,
            "version_policy": {"latest": {"num_versions": 1}}, "parameters": parameters,
        },
    }  # fmt: skip


def serve(kind: str, port: int, directory: str) -> None:
    """Answers until it is ended."""
    told = answers(kind, directory)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = told.get(self.path)
            body = json.dumps({"error": "not found"} if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
