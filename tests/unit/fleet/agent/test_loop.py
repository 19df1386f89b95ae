"""The rounds of an agent: what is sent when, what is kept, and how it waits."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.agent.client import FleetClient, RefusedError, read_token
from enginekeeper.fleet.agent.loop import Agent
from enginekeeper.fleet.agent.memory import AgentMemory
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.wire import Desired, DesiredEngine, Heartbeat, Problem, state_of
from registry.digests import digest_bytes
from registry.errors import InvalidRecordError
from tests.factories.inventories import inventory
from tests.fakes.fleet_double import TOKEN, FleetDouble, served

pytestmark = pytest.mark.enable_socket

WHEN = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
WANTED = Desired("gpu-0001", (DesiredEngine("tiny", "prod", str(digest_bytes(b"engine"))),))


class Node:
    """A node whose inventory a test changes."""

    def __init__(self) -> None:
        self.found: Inventory = inventory()

    def __call__(self) -> Inventory:
        return self.found


@pytest.fixture
def double() -> Iterator[FleetDouble]:
    with served(FleetDouble("gpu-0001")) as server:
        yield server


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def agent(tmp_path: Path, double: FleetDouble, token: Path, node: Node) -> Agent:
    memory = AgentMemory(tmp_path / "home", lambda: 1_000_000.0)
    client = FleetClient(double.url, token)
    return Agent(node, client, memory, lambda _: True, 1, chance=lambda: 0.5, clock=lambda: 0.0)


def test_the_whole_inventory_is_sent_once_and_again_when_it_changes(
    agent: Agent, double: FleetDouble, node: Node
) -> None:
    for taken_at in ("2026-11-26T03:00:00+00:00", "2026-11-26T03:01:00+00:00"):
        node.found = inventory(taken_at=taken_at)
        agent.round()
    assert (len(double.heartbeats), len(double.inventories)) == (2, 1)
    node.found = inventory(labels={"pool": "a"})
    agent.round()
    assert [one["labels"] for one in double.inventories] == [{}, {"pool": "a"}]


def test_a_server_that_forgot_asks_and_gets_it(agent: Agent, double: FleetDouble) -> None:
    agent.round()
    double.inventories.clear()
    agent.round()
    assert len(double.inventories) == 1


def test_a_heartbeat_is_a_few_hundred_bytes() -> None:
    state = state_of(inventory().as_dict())
    message = Heartbeat("n" * 128, "b" * 36, 10**17, WHEN, state)
    assert len(message.to_bytes()) < 500


def test_sequences_grow_over_restarts(agent: Agent, double: FleetDouble) -> None:
    agent.round()
    again = replace(agent)
    again.round()
    assert double.sequences == [1_000_001, 1_000_002, 1_000_003]


def test_what_should_run_is_kept_and_fetched_only_when_it_changes(
    agent: Agent, double: FleetDouble
) -> None:
    double.desired = WANTED
    agent.round()
    assert agent.memory.desired() == WANTED
    agent.round()
    assert double.asked.count("GET /v1/desired") == 1
    double.desired = replace(WANTED, assignments=())
    agent.round()
    assert agent.memory.desired() == double.desired
    double.desired = None
    agent.round()
    assert agent.memory.desired() is None


def test_without_its_server_an_agent_keeps_what_should_run_and_sends_only_the_newest(
    agent: Agent, double: FleetDouble, node: Node
) -> None:
    double.desired = WANTED
    agent.round()
    double.failing = [(503, {}, b"")] * 3
    for pool in "abc":
        node.found = inventory(labels={"pool": pool})
        agent.round()
    assert agent.memory.desired() == WANTED
    agent.round()
    assert [one["labels"] for one in double.inventories] == [{}, {"pool": "c"}]


def test_it_waits_longer_each_time_and_never_for_hours(agent: Agent, double: FleetDouble) -> None:
    double.failing = [(500, {}, b"")] * 8
    waits = [agent.round() for _ in range(8)]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert agent.round() == pytest.approx(0.94)  # as the server says


def test_it_waits_as_long_as_a_busy_server_asks(agent: Agent, double: FleetDouble) -> None:
    double.failing = [(429, {"Retry-After": "120"}, b""), (429, {"Retry-After": "9999999"}, b"")]
    assert [agent.round(), agent.round()] == [120, 3600]


def test_waits_differ_from_node_to_node(agent: Agent, double: FleetDouble) -> None:
    double.failing = [(500, {}, b"")] * 2
    waits = [replace(agent, chance=chance).round() for chance in (lambda: 0.0, lambda: 0.99)]
    assert waits == [2.5, pytest.approx(7.45)]
    regular = [replace(agent, chance=chance).round() for chance in (lambda: 0.0, lambda: 1.0)]
    assert regular == [pytest.approx(0.9), pytest.approx(0.98)]


def test_a_round_begins_within_a_period_of_the_one_before_however_long_that_took(
    agent: Agent, double: FleetDouble
) -> None:
    double.next_seconds = 60
    ticks = iter([0.0, 5.0, 100.0, 170.0])
    slow = replace(agent, clock=lambda: next(ticks), chance=lambda: 1.0)
    assert slow.round() == pytest.approx(0.98 * 60 - 5)
    assert slow.round() == pytest.approx(6)  # it took longer than a period: no round at once


def test_a_failure_is_said_once(
    agent: Agent, double: FleetDouble, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("enginekeeper.progress")
    caplog.set_level(logging.INFO, logger.name)
    double.failing = [(401, {}, Problem("the token is not known").to_bytes())] * 3
    for _ in range(4):
        agent.round()
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == 2
    assert "refused (401): the token is not known" in said[0]
    assert said[1] == "the server answers again"
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, Problem("no", remedy="enroll").to_bytes(), "refused (401): no"),
        (409, Problem("old").to_bytes(), "refused (409): old"),
        (422, b"<html>", "refused (422): the server gave no reason"),
        (302, b"", "refused (302)"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    agent: Agent, double: FleetDouble, status: int, body: bytes, words: str
) -> None:
    double.failing = [(status, {"Location": "http://127.0.0.1:1/"}, body)]
    message = Heartbeat("gpu-0001", None, 1, WHEN, state_of({}))
    with pytest.raises(RefusedError, match=r"refused") as caught:
        agent.client.heartbeat(message)
    assert words in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"inventory": "maybe"}', b"\xff", b"[" * 5000, b"x" * 5_000_000,
     json.dumps({"inventory": "known", "desired": "../x", "next_seconds": 5}).encode()],
    ids=lambda body: f"{len(body)} {body[:9]!r}",
)  # fmt: skip
def test_an_answer_that_is_none_is_a_failure_and_no_crash(
    agent: Agent, double: FleetDouble, body: bytes
) -> None:
    double.failing = [(200, {}, body)]
    agent.round()
    assert "not understood" in str(agent.memory.status()["problem"])


def test_a_server_that_is_not_there_is_said_with_its_address(token: Path) -> None:
    client = FleetClient("http://127.0.0.1:1", token)
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        client.desired()
    assert "127.0.0.1:1/v1/desired" in str(caught.value.where)
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "server", "ftp://server", "http://", "http://gpu-server", "https://user:pw@server",
     "https://server?x=1", "http://[", "http://server:port"],
)  # fmt: skip
def test_what_is_no_safe_address_is_refused(token: Path, url: str) -> None:
    with pytest.raises(InputError) as caught:
        FleetClient(url, token)
    assert "pw" not in str(caught.value)


def test_the_clear_is_allowed_where_it_is_said(token: Path) -> None:
    FleetClient("http://gpu-server", token, plain_http=True)
    FleetClient("https://gpu-server", token)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_token_that_others_may_read_is_refused(token: Path, mode: int) -> None:
    token.chmod(mode)
    with pytest.raises(InputError, match="others"):
        read_token(token)


def listed(file: Path, user: int = 1234) -> None:
    """Lets a user read a file as systemd does for a service's credential: by an access list."""
    nobody = 0xFFFFFFFF
    owner, named = (1, 4, nobody), (2, 4, user)
    group, mask, others = (4, 0, nobody), (16, 4, nobody), (32, 0, nobody)
    entries = (struct.pack("<HHI", *one) for one in (owner, named, group, mask, others))
    os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(entries))


def test_a_credential_of_systemd_is_read_though_its_group_seems_to_read_it(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_token(token)
    try:
        listed(token)
    except OSError:
        token.chmod(0o440)  # a file system without access lists: as the mode shows them
    assert stat.S_IMODE(token.stat().st_mode) & 0o077 == 0o040
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(token.parent))
    assert read_token(token) == expected
    for mode in (0o444, 0o460):
        token.chmod(mode)
        with pytest.raises(InputError, match="others"):
            read_token(token)
    token.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/another.service")
    with pytest.raises(InputError, match="others"):
        read_token(token)


@pytest.mark.parametrize("text", ["", "\n", "a b", "a\nb", "\x7f", "x" * 2000, "ü"])
def test_what_is_no_token_is_refused_and_not_shown(token: Path, text: str) -> None:
    token.write_text(text)
    with pytest.raises(InputError, match="not a token"):
        read_token(token)


def test_a_look_that_fails_ends_no_agent(agent: Agent, double: FleetDouble) -> None:
    def blind() -> Inventory:
        raise InvalidRecordError("not usable as a name")

    broken = replace(agent, look=blind)
    assert [broken.round(), broken.round()] == [5, 10]
    assert double.heartbeats == []


def test_a_full_disk_is_a_failure_and_ends_no_agent(
    agent: Agent, double: FleetDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("registry.files.write_whole", full)
        assert agent.round() == 5
        assert double.heartbeats == []  # the sequence could not be kept, so it was not used
    agent.round()
    assert len(double.heartbeats) == 1


def test_two_agents_of_one_home_do_not_run_at_once(agent: Agent) -> None:
    with agent.memory.alone():
        other = AgentMemory(agent.memory.home)
        with pytest.raises(UnavailableError, match="another agent"), other.alone():
            pass


@pytest.mark.parametrize("text", ["", "x", "-5", "9" * 19, "9" * 5000])
def test_a_damaged_sequence_is_said_and_not_begun_anew(agent: Agent, text: str) -> None:
    agent.memory.directory.mkdir(parents=True)
    (agent.memory.directory / "sequence").write_text(text)
    agent.round()
    assert "not the last sequence" in str(agent.memory.status()["problem"])


def test_a_sequence_is_on_the_disk_before_it_is_used(
    agent: Agent, double: FleetDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FleetClient, "heartbeat", killed)
    with pytest.raises(KeyboardInterrupt):
        agent.round()
    assert agent.memory.next_sequence() == 1_000_002
    assert double.sequences == []


def test_it_ends_between_two_rounds(agent: Agent, double: FleetDouble) -> None:
    ends = iter([False, False, True])
    replace(agent, wait=lambda _: next(ends)).run()
    assert len(double.heartbeats) == 2
