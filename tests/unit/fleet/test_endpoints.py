"""What servers say of themselves: held against the record, and never more than declared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.endpoints import ask_endpoint
from enginekeeper.fleet.http_get import check_url, get_text

pytestmark = pytest.mark.enable_socket

VLLM = {"object": "list", "data": [{"id": "llama", "root": "/engines/llama", "max_model_len": 1}]}
TRTLLM = {"object": "list", "data": [{"id": "engine", "object": "model", "owned_by": "x"}]}
TRITON = {"name": "tensorrt_llm", "backend": "tensorrtllm", "parameters": {
    "gpt_model_path": {"string_value": "/engines/llama"}, "gpt_model_type": {"string_value": "x"},
}}  # fmt: skip


class Server:
    """Answers what a test says."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.asked: list[str] = []


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(self.path)
            self.send_response(told.status)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield told, f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def says(document: object) -> Any:  # noqa: ANN401 - a stand-in for get_text
    return lambda _url, **_more: json.dumps(document)


@pytest.mark.parametrize(("path", "agrees"), [("/engines/llama", True), ("/engines/old", False)])
@pytest.mark.parametrize(
    ("endpoint", "document", "name"),
    [("http://x:8000", VLLM, "llama"),
     ("http://x:8000/v2/models/tensorrt_llm", TRITON, "tensorrt_llm")],
)  # fmt: skip
def test_a_server_that_names_its_directory_is_held_against_the_record(
    endpoint: str, document: object, name: str, path: str, *, agrees: bool
) -> None:
    found = ask_endpoint(endpoint, Path(path), says(document))
    assert (found.models, found.places) == ((name,), ("/engines/llama",))
    assert (found.agrees, found.problem) == (agrees, None)


def test_a_link_to_the_engine_is_the_engine(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "current").symlink_to("engine")
    told = {"data": [{"id": "m", "root": str(tmp_path / "current")}]}
    assert ask_endpoint("http://x", tmp_path / "engine", says(told)).agrees is True


def test_a_server_that_names_no_directory_is_neither(tmp_path: Path) -> None:
    found = ask_endpoint("http://x/", tmp_path, says(TRTLLM))
    assert (found.source, found.models, found.agrees) == ("http://x/v1/models", ("engine",), None)


@pytest.mark.parametrize(
    "document", [[], {}, {"data": 5}, {"data": [{"id": "a\x1b"}]}, {"data": [{"id": 5}, 7, None]}]
)
def test_any_answer_is_a_word_or_a_problem(document: object) -> None:
    found = ask_endpoint("http://x", Path("/e"), says(document))
    assert found.models == ()


@pytest.mark.parametrize("document", [{"name": 5}, {"name": "m", "parameters": []}, "x"])
def test_any_configuration_is_a_word_or_a_problem(document: object) -> None:
    found = ask_endpoint("http://x/v2/models/m", Path("/e"), says(document))
    assert (found.agrees, found.places) == (None, ())


def test_it_is_really_asked(server: tuple[Server, str]) -> None:
    told, url = server
    told.body = json.dumps(VLLM).encode()
    assert ask_endpoint(url, Path("/engines/llama"), get_text).agrees is True
    assert told.asked == ["/v1/models"]


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [(404, b"", "answers 404"), (302, b"", "answers 302"), (200, b"\xff", "no text"),
     (200, b"x" * (1024 * 1024 + 1), "more than is read"), (200, b"{", "not JSON")],
)  # fmt: skip
def test_what_is_no_answer_is_a_problem(
    server: tuple[Server, str], status: int, body: bytes, problem: str
) -> None:
    told, url = server
    told.status, told.body = status, body
    found = ask_endpoint(url, Path("/e"), get_text)
    assert problem in str(found.problem)
    assert len(told.asked) == 1


def test_a_server_that_is_not_there_is_a_problem() -> None:
    found = ask_endpoint("http://127.0.0.1:1", Path("/e"), get_text)
    assert "does not answer" in str(found.problem)
    with pytest.raises(UnavailableError):
        get_text("http://127.0.0.1:1", limit=5)


@pytest.mark.parametrize("url", ["", "x", "file:///etc/passwd", "http://", "http://a:b@c", "http://[",
                                 "http://a\nb"])  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url, "--endpoint")
    assert ask_endpoint(url, Path("/e"), says({})).problem is not None
