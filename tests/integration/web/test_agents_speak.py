"""The real server over HTTP: what agents say is kept; bad input is refused and logged."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import (
    Heartbeat,
    InventoryMessage,
    parse_desired,
    parse_problem,
    state_of,
)
from registry import migrate
from registry.catalogue import Catalogue, open_catalogue
from registry.digests import digest_bytes
from registry.fleet.types import Assignment, Node, WhereFilter
from tests.factories.inventories import inventory, on_disk
from tests.fakes import servers

ENGINE = digest_bytes(b"engine")


@dataclass
class Fleet:
    """A catalogue, and the server that serves it."""

    catalogue: Catalogue
    environment: Mapping[str, str]
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    tokens: dict[str, str] = field(default_factory=dict)

    server: servers.FleetServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = self.stack.enter_context(servers.fleet_server(self.environment))

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the server and starts another at the same place."""
        self.server.process.send_signal(how)
        code = self.server.process.wait(30)
        assert code == (0 if how is signal.SIGTERM else -how)
        self.stack.close()
        port = self.server.port
        self.server = self.stack.enter_context(servers.fleet_server(self.environment, port=port))

    def enroll(self, name: str, *, simulated: bool = False) -> str:
        token = self.tokens[name] = make_token(name)
        with self.catalogue.edit() as draft:
            draft.fleet.enroll(
                name, token_digest(token), simulated=simulated, labels={}, at=datetime.now(UTC)
            )
        return token

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def beat(self, name: str, sequence: int, found: Inventory, **fields: Any) -> tuple[int, Any]:  # noqa: ANN401
        token = fields.pop("token", self.tokens[name])
        sent = Heartbeat(name, "boot-1", sequence, datetime.now(UTC), state_of(found.as_dict()))
        body = replace(sent, **fields).to_bytes()
        status, answer = self.ask("POST", "/v1/heartbeat", body, Authorization=f"Bearer {token}")
        return status, json.loads(answer)

    def put(self, name: str, sequence: int, found: Inventory) -> tuple[int, Any]:
        body = InventoryMessage(name, "boot-1", sequence, found.as_dict()).to_bytes()
        token = f"Bearer {self.tokens[name]}"
        status, answer = self.ask("PUT", "/v1/inventory", body, Authorization=token)
        return status, json.loads(answer)

    def node(self, name: str) -> Node:
        with self.catalogue.read() as view:
            return view.fleet.node(name)

    def engines(self, name: str) -> list[str]:
        with self.catalogue.read() as view:
            return [one.engine for one in view.fleet.where(WhereFilter(node=name))]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("home")
    url = f"sqlite:///{home}/catalogue.sqlite"
    if request.param == "postgresql":
        server_url = request.getfixturevalue("postgresql_server")
        with servers.database(server_url, f"agents_{os.getpid()}") as url:
            yield from opened(url, home)
    else:
        yield from opened(url, home)


def opened(url: str, home: Path) -> Iterator[Fleet]:
    migrate.upgrade(url)
    environment = {
        "ENGINEKEEPER_HOME": str(home), "ENGINEKEEPER_CACHE": str(home / "cache"),
        "ENGINEKEEPER_CATALOGUE": url,
    }  # fmt: skip
    catalogue = open_catalogue(url)
    made = Fleet(catalogue, environment)
    with made.stack:
        yield made
    catalogue.close()


def known(fleet: Fleet, name: str) -> Inventory:
    """Enrols a node and lets it report once."""
    fleet.enroll(name)
    found = inventory(name, [on_disk(ENGINE)])
    assert fleet.put(name, 1, found) == (
        200, {"state": state_of(found.as_dict()), "recorded": True}
    )  # fmt: skip
    return found


def test_an_agent_is_asked_for_its_inventory_once(fleet: Fleet) -> None:
    fleet.enroll("gpu-a")
    found = inventory("gpu-a", [on_disk(ENGINE)])
    status, answer = fleet.beat("gpu-a", 1, found)
    assert (status, answer) == (200, {"inventory": "wanted", "desired": None, "next_seconds": 60})
    assert fleet.put("gpu-a", 2, found)[1]["recorded"]
    assert not fleet.put("gpu-a", 2, found)[1]["recorded"]
    assert fleet.beat("gpu-a", 3, found)[1]["inventory"] == "known"
    assert fleet.engines("gpu-a") == [str(ENGINE)]


def test_desired_state_is_told_to_its_node(fleet: Fleet) -> None:
    known(fleet, "gpu-b")
    token = f"Bearer {fleet.tokens['gpu-b']}"
    status, answer = fleet.ask("GET", "/v1/desired", Authorization=token)
    assert (status, json.loads(answer)["assignments"]) == (200, [])


def test_an_assignment_is_told_within_moments(fleet: Fleet) -> None:
    found = known(fleet, "gpu-n")
    assert fleet.beat("gpu-n", 2, found)[1]["desired"] is None
    one = Assignment("*", "tiny", "prod", "anna", datetime.now(UTC))
    with fleet.catalogue.edit() as draft:
        draft.fleet.assign(one)
    time.sleep(2.5)
    told = fleet.beat("gpu-n", 3, found)[1]["desired"]
    token = f"Bearer {fleet.tokens['gpu-n']}"
    desired = parse_desired(fleet.ask("GET", "/v1/desired", Authorization=token)[1])
    with fleet.catalogue.edit() as draft:
        draft.fleet.unassign("*", "tiny", "prod")
    assert told == desired.digest
    assert desired.assignments[0].reason == "the channel has no engine of the model"


def test_a_forged_node_id_is_refused_and_logged(fleet: Fleet) -> None:
    known(fleet, "gpu-c")
    fleet.enroll("gpu-d")
    status, answer = fleet.beat("gpu-c", 9, inventory("gpu-c"), token=fleet.tokens["gpu-d"])
    assert (status, answer["where"]) == (403, "node")
    assert "token of gpu-d used for node gpu-c" in fleet.server.said()
    assert fleet.beat("gpu-c", 2, inventory("gpu-c"))[0] == 200


def test_a_replayed_heartbeat_is_refused_and_logged(fleet: Fleet) -> None:
    found = known(fleet, "gpu-e")
    assert fleet.beat("gpu-e", 7, found)[0] == 200
    status, answer = fleet.beat("gpu-e", 7, found)
    assert status == 409
    assert set(answer) == {"what", "where", "actual", "expected", "remedy"}
    assert "node gpu-e, the sequence is not newer" in fleet.server.said()
    assert fleet.engines("gpu-e") == [str(ENGINE)]


def test_of_two_agents_with_one_identity_the_first_is_refused_with_both_boots(fleet: Fleet) -> None:
    found = known(fleet, "gpu-f")
    assert fleet.beat("gpu-f", 2, found, boot_id="boot-clone")[0] == 200
    assert fleet.beat("gpu-f", 3, found, boot_id="boot-1")[0] == 409
    assert fleet.beat("gpu-f", 3, found, boot_id="boot-clone")[0] == 200
    assert "sequence 3 of boot boot-1 after 2 of boot boot-clone" in fleet.server.said()


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [("POST", "/v1/heartbeat", 4096), ("PUT", "/v1/inventory", 4 * 1024 * 1024)],
)
def test_a_huge_body_is_refused_before_it_is_sent(
    fleet: Fleet, method: str, path: str, limit: int
) -> None:
    token = fleet.tokens.get("gpu-g") or fleet.enroll("gpu-g")
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {limit + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", fleet.server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_huge_body_of_unknown_length_is_refused_at_its_limit(fleet: Fleet) -> None:
    token = fleet.tokens.get("gpu-g") or fleet.enroll("gpu-g")
    with socket.create_connection(("127.0.0.1", fleet.server.port), timeout=30) as connection:
        connection.sendall(
            f"POST /v1/heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "start",
    [
        b"GET /v1/desired HTTP/1.1\r\nHost: x\r\nX-Long: ",
        b"GET /v1/",
        b"POST /v1/heartbeat HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: ",
    ],
    ids=["header", "address", "trailer"],
)
def test_an_endless_head_is_cut_off(fleet: Fleet, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", fleet.server.port), timeout=30) as connection:
        connection.sendall(start)
        with contextlib.suppress(ConnectionError):  # as soon as the server is at its end
            for _ in range(64):
                connection.sendall(b"x" * 0x10000)
            assert b"HTTP/1.1 400" in b"".join(iter(lambda: connection.recv(4096), b""))


def test_many_requests_on_one_connection_are_no_endless_head(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.server.port, timeout=30)
    with contextlib.closing(connection):
        for _ in range(40):
            connection.request("GET", "/v1/nothing", headers={"X-Long": "x" * 4096})
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:7]) == (404, b'{"what"')


def test_a_wrong_clock_is_taken_and_noted(fleet: Fleet) -> None:
    found = known(fleet, "gpu-h")
    assert fleet.beat("gpu-h", 2, found, sent_at=datetime(1970, 1, 1, tzinfo=UTC))[0] == 200
    fleet.restart()
    offset = fleet.node("gpu-h").clock_offset
    assert offset is not None
    assert offset < -(10**9)


@pytest.mark.parametrize(
    "name", ["x'; DROP TABLE nodes; --", "../../etc/passwd", "a/b", "\u001b[2J", "", "x" * 200]
)
def test_injection_in_a_name_is_refused_by_the_field(fleet: Fleet, name: str) -> None:
    token = fleet.tokens.get("gpu-i") or fleet.enroll("gpu-i")
    document = json.loads(
        Heartbeat("gpu-i", None, 1, datetime.now(UTC), state_of({})).to_bytes()
    ) | {"node": name}
    status, answer = fleet.ask(
        "POST", "/v1/heartbeat", json.dumps(document).encode(), Authorization=f"Bearer {token}"
    )
    assert (status, parse_problem(answer).where) == (422, "heartbeat: node")
    assert fleet.node("gpu-i").name == "gpu-i"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic eDp5"}, 401),
        ({"Authorization": "Bearer x"}, 401),
        ({"Authorization": "Bearer ek1.guess.gpu-a"}, 401),
    ],
)
def test_who_has_no_token_is_not_heard(fleet: Fleet, headers: dict[str, str], status: int) -> None:
    found, answer = fleet.ask("POST", "/v1/heartbeat", b"{}", **headers)
    assert (found, parse_problem(answer).where) == (status, "Authorization")


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff\xfe", b"{" * 3000, b'{"node": NaN}'])
def test_a_body_that_is_no_message_is_refused(fleet: Fleet, body: bytes) -> None:
    token = fleet.tokens.get("gpu-j") or fleet.enroll("gpu-j")
    status, answer = fleet.ask("POST", "/v1/heartbeat", body, Authorization=f"Bearer {token}")
    assert status == 422
    assert parse_problem(answer).what


def test_what_is_not_there_is_said_in_the_same_form(fleet: Fleet) -> None:
    assert [fleet.ask(*one)[0] for one in (("GET", "/nothing"), ("GET", "/v1/heartbeat"))] == [
        404, 405,
    ]  # fmt: skip
    assert parse_problem(fleet.ask("GET", "/nothing")[1]).where == "/nothing"


def test_a_node_that_claims_to_be_simulated_is_refused(fleet: Fleet) -> None:
    fleet.enroll("gpu-k")
    status, answer = fleet.put("gpu-k", 1, inventory("gpu-k", simulated=True))
    assert (status, answer["where"]) == (422, "inventory: simulated")
    assert "node gpu-k says simulated" in fleet.server.said()


def test_a_second_service_on_a_catalogue_does_not_start(fleet: Fleet) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "enginekeeper", "serve", "--port", "0"], capture_output=True,
        text=True, env={**os.environ, **fleet.environment}, cwd=Path(__file__).parents[3],
        check=False, timeout=60,
    )  # fmt: skip
    assert (second.returncode, "another process does this" in second.stderr) == (10, True)
    assert "Traceback" not in second.stderr


def test_a_stop_writes_what_was_heard(fleet: Fleet) -> None:
    found = known(fleet, "gpu-l")
    assert fleet.beat("gpu-l", 42, found)[0] == 200
    fleet.restart()
    assert fleet.node("gpu-l").sequence == 42


def test_kill_9_loses_no_inventory_and_agents_go_on(fleet: Fleet) -> None:
    names = [f"gpu-m{at}" for at in range(20)]
    found = {name: known(fleet, name) for name in names}
    fleet.restart(signal.SIGKILL)
    answers = [fleet.beat(name, 2, one)[1]["inventory"] for name, one in found.items()]
    assert answers == ["known"] * len(names)
    assert [fleet.engines(name) for name in names] == [[str(ENGINE)]] * len(names)


@pytest.mark.parametrize(
    ("how", "driver"), [(signal.SIGKILL, "595.71.05"), (signal.SIGTERM, "610.43.02")]
)
def test_a_driver_that_changed_as_the_service_ended_is_planned_for(
    fleet: Fleet, how: signal.Signals, driver: str
) -> None:
    name = f"gpu-o{driver[:3]}"
    found = known(fleet, name)
    assert fleet.put(name, 2, replace(found, driver=DriverState(driver, "13.3")))[1]["recorded"]
    fleet.server.process.send_signal(how)
    fleet.server.process.wait(30)
    if how is signal.SIGTERM:
        assert planned(fleet, driver) == {name}
    fleet.restart(how)
    give_up = time.monotonic() + 30
    while planned(fleet, driver) != {name} and time.monotonic() < give_up:
        time.sleep(0.2)
    assert planned(fleet, driver) == {name}


def planned(fleet: Fleet, driver: str) -> set[str]:
    """Returns the nodes of waves about a driver."""
    with fleet.catalogue.read() as view:
        return {
            one.name for wave in view.waves.open() if wave.driver == driver for one in wave.nodes
        }
