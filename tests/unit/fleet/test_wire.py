"""Messages between agents and the server: read back whole, or refused by the field."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.fleet.interface import GpuProcess
from enginekeeper.fleet.wire import (
    MAX_HEARTBEAT_BYTES,
    MAX_SEQUENCE,
    STATE_SCHEME,
    Desired,
    DesiredEngine,
    Heartbeat,
    HeartbeatAnswer,
    InventoryAnswer,
    InventoryMessage,
    Problem,
    Wish,
    parse_desired,
    parse_heartbeat,
    parse_heartbeat_answer,
    parse_inventory_answer,
    parse_inventory_message,
    parse_problem,
    state_of,
)
from registry.digests import digest_bytes
from registry.errors import ConflictError
from tests.factories.inventories import device, inventory

STATE = f"{STATE_SCHEME}:{'a' * 64}"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
BEAT = Heartbeat("gpu-1", "0f-1", 7, NOON, STATE)


def beat(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(BEAT.to_bytes())
    change(document)
    return json.dumps(document).encode()


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", fullmatch=True),
    st.none() | st.text("0123456789abcdef-", min_size=1, max_size=64),
    st.integers(0, MAX_SEQUENCE),
    st.datetimes(timezones=st.just(UTC)),
)
def test_every_heartbeat_is_read_back_whole_and_fits(
    node: str, boot_id: str | None, sequence: int, at: datetime
) -> None:
    sent = Heartbeat(node, boot_id, sequence, at, STATE)
    assert parse_heartbeat(sent.to_bytes()) == sent


def test_every_other_message_is_read_back_whole() -> None:
    answer = HeartbeatAnswer(Wish.WANTED, None, 60)
    kept = InventoryAnswer(STATE, recorded=True)
    message = InventoryMessage("gpu-1", None, 8, {"schema": 1})
    engine = str(digest_bytes(b"engine"))
    desired = Desired(
        "gpu-1",
        (DesiredEngine("m", "prod", engine), DesiredEngine("n", "prod", None, "none fits")),
    )

    assert parse_heartbeat_answer(answer.to_bytes()) == answer
    assert parse_inventory_answer(kept.to_bytes()) == kept
    assert parse_inventory_message(message.to_bytes()) == message
    assert parse_desired(desired.to_bytes()) == desired


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", None),
        ("node", "../etc"),
        ("node", "x'; DROP TABLE nodes; --"),
        ("node", 7),
        ("boot_id", ""),
        ("boot_id", "0" * 65),
        ("boot_id", "\u001b[2J"),
        ("sequence", -1),
        ("sequence", True),
        ("sequence", 1.5),
        ("sequence", "7"),
        ("sequence", MAX_SEQUENCE + 1),
        ("sent_at", "yesterday"),
        ("sent_at", "2026-11-26T12:00:00"),
        ("state", "sha256:" + "a" * 64),
        ("state", "a"),
    ],
)
def test_a_field_that_is_not_what_it_must_be_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError) as refused:
        parse_heartbeat(beat(lambda document: document.__setitem__(field, value)))
    assert refused.value.where == f"heartbeat: {field}"
    assert refused.value.expected


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b'{"node": NaN}', b"[" * 4000])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_heartbeat(body)


def test_a_field_of_a_newer_agent_is_passed_over() -> None:
    assert parse_heartbeat(beat(lambda one: one.__setitem__("newer", 1))) == BEAT


def test_a_heartbeat_beyond_its_limit_is_not_even_read() -> None:
    with pytest.raises(InputError, match="too large"):
        parse_heartbeat(b"[" * (MAX_HEARTBEAT_BYTES + 1))


def test_images_are_told_so_that_agents_of_before_refuse_nothing() -> None:
    bare = Desired("gpu-1", (DesiredEngine("m", "prod", None, "x"),))
    named = Desired("gpu-1", (DesiredEngine("m", "prod", None, "x", ("r/i:1", "r/i:2")),))
    assert parse_desired(named.to_bytes()) == named
    assert named.digest != bare.digest
    sent = json.loads(named.to_bytes())
    assert sent["digest"] == bare.digest  # of the fields that such an agent reads
    assert "containers" not in bare.to_bytes().decode()


@pytest.mark.parametrize("containers", ["r/i:1", [1], ["a\nb"]])
def test_images_that_are_no_texts_are_refused(containers: object) -> None:
    sent = json.loads(Desired("gpu-1", (DesiredEngine("m", "prod", None, "x"),)).to_bytes())
    sent["assignments"][0]["containers"] = containers
    with pytest.raises(InputError, match="not what it must be") as caught:
        parse_desired(json.dumps(sent).encode())
    assert caught.value.where == "desired: 0: containers"


def test_desired_state_that_is_not_its_digest_is_refused() -> None:
    sent = json.loads(Desired("gpu-1", (DesiredEngine("m", "prod", None, "x"),)).to_bytes())
    sent["assignments"] = []
    with pytest.raises(InputError, match="digest"):
        parse_desired(json.dumps(sent).encode())


def test_a_refusal_is_read_back_in_the_words_of_its_error() -> None:
    error = ConflictError("not newer", where="gpu-1", actual=6, expected="more than 7")
    sent = Problem.of(error)
    assert parse_problem(sent.to_bytes()) == sent
    assert (sent.actual, sent.remedy) == ("6", None)


def test_what_changes_by_itself_makes_no_new_state() -> None:
    before = inventory(devices=(device(processes=(GpuProcess(7, 1000),)),)).as_dict()
    later = (NOON + timedelta(hours=1)).isoformat()
    after = {**before, "taken_at": later, "boot_id": "another"}
    after["devices"] = [{**before["devices"][0], "processes": [{"pid": 8, "memory_bytes": 1}]}]
    assert state_of(after) == state_of(before)


def test_the_first_process_that_no_run_names_makes_a_new_state() -> None:
    idle = inventory(devices=(device(),)).as_dict()
    busy = inventory(devices=(device(processes=(GpuProcess(7, 1000),)),)).as_dict()
    engine = {"engine": "x", "pid": 7}
    assert state_of(busy) != state_of(idle)
    assert state_of({**busy, "running": [engine]}) == state_of({**idle, "running": [engine]})


def test_a_state_is_told_of_any_document() -> None:
    odd = {"devices": [1, {"processes": 2}, {"processes": [3, {"pid": []}]}], "running": [4, {}]}
    assert state_of(odd).startswith("ek-node-state-v1:")


def test_anything_else_makes_a_new_state() -> None:
    before = inventory(devices=(device(),)).as_dict()
    same = [
        name
        for name in before
        if name not in ("taken_at", "boot_id")
        and state_of({**before, name: "x"}) == state_of(before)
    ]
    other = [{**before["devices"][0], "vbios": "x"}]
    assert same == []
    assert state_of({**before, "devices": other}) != state_of(before)


def test_the_state_is_the_same_before_and_after_the_wire() -> None:
    document = inventory(devices=(device(),)).as_dict()
    assert state_of(json.loads(json.dumps(document))) == state_of(document)


def test_an_agent_gets_no_heavy_library_with_it() -> None:
    heavy = "pydantic", "sqlalchemy", "numpy", "click", "boto3"
    code = f"import sys, enginekeeper.fleet.wire; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
