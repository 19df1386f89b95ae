"""Webhooks against a real HTTP server: signed, tried again, and sent nowhere else."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tenacity import wait_none

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.rollout.telling import tell, webhook_secret
from enginekeeper.orchestration.rollout.webhook import check_url, deliver
from enginekeeper.settings import Settings
from registry.waves.types import Stage
from tests.factories.benches import make_site
from tests.factories.waves import NOON, node, wave

SECRET = b"0123456789abcdef"


@dataclass
class Endpoint:
    """A server that answers with these codes in turn, and keeps what it was sent."""

    codes: list[int]
    url: str = ""
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def listening(*codes: int) -> Iterator[Endpoint]:
    found = Endpoint(list(codes))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.taken.append((dict(self.headers), body))
            self.send_response(found.codes.pop(0))
            self.send_header("Location", found.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


FOUND = wave(node("a", stage=Stage.RELEASED), node("b"), version=4)


def test_what_is_sent_is_signed_over_its_time_and_its_body() -> None:
    with listening(204) as endpoint:
        deliver(FOUND, endpoint.url, SECRET, now=NOON)
    ((headers, body),) = endpoint.taken
    stamp = headers["X-Enginekeeper-Timestamp"]
    expected = hmac.new(SECRET, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Enginekeeper-Signature"] == f"sha256={expected}"
    assert headers["X-Enginekeeper-Delivery"] == "to-r595/4"
    assert int(stamp) == int(NOON.timestamp())
    told = json.loads(body)
    assert (told["phase"], told["named"]) == ("qualifying", {"released": ["a"]})
    assert told["nodes"] == {"held": 1, "released": 1}


def test_a_server_that_fails_is_asked_again_and_one_that_refuses_is_not() -> None:
    with listening(503, 429, 200) as endpoint:
        deliver(FOUND, endpoint.url, SECRET, now=NOON, wait=wait_none())
    assert len(endpoint.taken) == 3
    assert len({body for _, body in endpoint.taken}) == 1
    with (
        listening(403) as endpoint,
        pytest.raises(UnavailableError, match="did not take") as caught,
    ):
        deliver(FOUND, endpoint.url, SECRET, now=NOON, wait=wait_none())
    assert (caught.value.actual, caught.value.transient) == ("HTTP 403", False)


def test_a_redirect_is_not_followed() -> None:
    with listening(307, 200) as endpoint, pytest.raises(UnavailableError) as caught:
        deliver(FOUND, endpoint.url, SECRET, now=NOON, wait=wait_none())
    assert (caught.value.actual, len(endpoint.taken)) == ("HTTP 307", 1)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://host/x", "https://", "host/path", "http://user:pw@host/",
        "http://host/\nX: y", "http://[::1/", "gopher://x", "http://host/a b", "",
    ],
)  # fmt: skip
def test_nothing_is_sent_to_what_is_no_http_address(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url)
    with pytest.raises(InputError):
        deliver(FOUND, url, SECRET, now=NOON)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        check_url("https://anna:hunter2@host/")
    assert "hunter2" not in str(caught.value)


def test_a_webhook_that_did_not_answer_is_told_next_time_and_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    site = make_site(tmp_path)
    registry = site.bench.registry
    settings = Settings.from_environment({"ENGINEKEEPER_WEBHOOK_SECRET_FILE": str(secret)})
    with listening(403, 200) as endpoint:
        with registry.catalogue.edit() as draft:
            draft.waves.begin(wave(node("a"), webhook=endpoint.url))
        for fault in ("HTTP 403", None, None):
            with registry.catalogue.read() as view:
                found = view.waves.wave("to-r595")
            said = tell(registry, settings, found, now=NOON)
            assert said is None if fault is None else fault in str(said)
    assert len(endpoint.taken) == 2


@pytest.mark.parametrize(
    ("mode", "text", "said"), [(0o644, "x" * 32, "others may read"), (0o600, "short", "too short")]
)
def test_a_secret_that_others_know_or_guess_is_refused(
    tmp_path: Path, mode: int, text: str, said: str
) -> None:
    place = tmp_path / "secret"
    place.write_text(text)
    place.chmod(mode)
    settings = Settings.from_environment({"ENGINEKEEPER_WEBHOOK_SECRET_FILE": str(place)})
    with pytest.raises(Exception, match=said):
        webhook_secret(settings)
    with pytest.raises(InputError, match="needs a secret"):
        webhook_secret(Settings.from_environment({}))
