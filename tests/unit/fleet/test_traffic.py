"""How busy nodes are: as a Prometheus says over HTTP, or a file; nothing unknown counts as idle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.http_get import get_text
from enginekeeper.fleet.traffic import BUSY_GPUS, Traffic, read_traffic

pytestmark = pytest.mark.enable_socket


class Prometheus:
    """Answers instant queries as the API's documentation has it, and nothing else."""

    def __init__(self) -> None:
        self.samples: list[Any] = []
        self.kind = "vector"
        self.queries: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(path)
        asked = parse_qs(parts.query, strict_parsing=True)
        if parts.path != "/api/v1/query" or list(asked) != ["query"]:
            return 404, {"status": "error"}
        self.queries += asked["query"]
        data = {"resultType": self.kind, "result": self.samples}
        return 200, {"status": "success", "data": data}


@pytest.fixture
def prometheus() -> Iterator[tuple[Prometheus, str]]:
    told = Prometheus()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = told.answer(self.path)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield told, f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def sample(value: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [1764122400.1, value]}


def test_prometheus_is_asked_for_the_gpus_use_of_the_last_hour(
    prometheus: tuple[Prometheus, str],
) -> None:
    told, url = prometheus
    told.samples = [
        sample("71.5", Hostname="gpu-1"), sample("0", Hostname="gpu-2"),
        sample("NaN", Hostname="gpu-3"), sample("+Inf", Hostname="gpu-4"),
        sample("3", instance="gpu-5:9400"), sample("-1", node="gpu-6"),
    ]  # fmt: skip
    found = read_traffic(f"{url}/", None, get_text)
    assert found.of == {"gpu-1": 71.5, "gpu-2": 0.0, "gpu-5": 3.0}
    assert (told.queries, found.source) == ([BUSY_GPUS], f"{url}/api/v1/query")
    assert found.order(["gpu-9", "gpu-1", "gpu-3", "gpu-5", "gpu-2"]) == (
        "gpu-2", "gpu-5", "gpu-1", "gpu-3", "gpu-9",
    )  # fmt: skip
    assert found.unknown(["gpu-1", "gpu-3", "gpu-9"]) == 2


def test_requests_can_be_asked_for_instead(prometheus: tuple[Prometheus, str]) -> None:
    told, url = prometheus
    query = "sum by (node) (rate(vllm:request_success_total[1h]))"
    told.samples = [sample("12.5", node="gpu-1")]
    assert read_traffic(url, query, get_text).of == {"gpu-1": 12.5}
    assert told.queries == [query]


@pytest.mark.parametrize("one", [
    sample("1", gpu="0"), {"metric": {"node": 1}, "value": [0, "1"]}, {"metric": {"node": "a"}}, 7,
])  # fmt: skip
def test_a_sample_of_no_node_is_refused(prometheus: tuple[Prometheus, str], one: object) -> None:
    told, url = prometheus
    told.samples = [one]
    with pytest.raises(InputError):
        read_traffic(url, None, get_text)


def test_what_is_no_vector_is_refused(prometheus: tuple[Prometheus, str]) -> None:
    told, url = prometheus
    told.kind = "matrix"
    with pytest.raises(InputError, match="no value for each node"):
        read_traffic(url, None, get_text)
    with pytest.raises(UnavailableError, match="404"):
        read_traffic(f"{url}/elsewhere", None, get_text)


def test_a_file_says_it_too(tmp_path: Path) -> None:
    file = tmp_path / "traffic.json"
    file.write_text(json.dumps({"gpu-1": 5, "gpu-2": 0.5, "gpu-3": None, "gpu-4": "many"}))
    assert read_traffic(str(file), None, get_text).of == {"gpu-1": 5.0, "gpu-2": 0.5}
    with pytest.raises(InputError, match="not asked a query"):
        read_traffic(str(file), "up", get_text)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 100)), st.sets(st.text(max_size=3)))
def test_the_order_has_every_node_once_and_the_unknown_last(
    known: dict[str, float], names: set[str]
) -> None:
    traffic = Traffic("test", known)
    found = traffic.order(names)
    assert sorted(found) == sorted(names)
    values = [known.get(name, float("inf")) for name in found]
    assert values == sorted(values)
    assert traffic.order(reversed(found)) == found
