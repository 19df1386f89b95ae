"""The ingest over a real catalogue: what is taken, what is refused, what a crash loses."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.fleet.ingest import Ingest
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventory import Evidence, Inventory, RunningEngine
from enginekeeper.fleet.refusals import (
    ForeignNodeError,
    RefusedMessageError,
    ReplayedError,
    UnknownTokenError,
)
from enginekeeper.fleet.tokens import make_token, token_digest
from enginekeeper.fleet.wire import Heartbeat, InventoryMessage, Wish, state_of
from registry import migrate
from registry.backups.backup import backup, restore
from registry.catalogue import Catalogue, open_catalogue
from registry.digests import digest_bytes
from registry.fleet.types import Node, WhereFilter
from tests.factories.fleet import NOON
from tests.factories.inventories import inventory, on_disk
from tests.fakes.statements import asked

ENGINE = digest_bytes(b"engine")


@dataclass
class World:
    """A catalogue with enrolled nodes, a server that ingests, and the hands of agents."""

    catalogue: Catalogue
    now: datetime = NOON
    tokens: dict[str, str] = field(default_factory=dict)
    ingest: Ingest = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts the server anew; what it had not written is lost, as by kill -9."""
        self.ingest = Ingest(self.catalogue, lambda: self.now)
        self.ingest.load()

    def enroll(self, name: str = "gpu-1", *, simulated: bool = False, **labels: str) -> str:
        token = self.tokens[name] = make_token(name)
        with self.catalogue.edit() as draft:
            draft.fleet.enroll(
                name, token_digest(token), simulated=simulated, labels=labels, at=self.now
            )
        self.ingest.refresh()
        return token

    def beat(self, name: str, sequence: int, found: Inventory, **fields: Any) -> Wish:  # noqa: ANN401
        state = state_of(found.as_dict())
        sent = Heartbeat(name, "boot-1", sequence, self.now, state)
        token = fields.pop("token", self.tokens[name])
        return self.ingest.heartbeat(token, replace(sent, **fields).to_bytes())[1]

    def put(self, name: str, sequence: int, found: Inventory, boot: str = "boot-1") -> bool:
        message = InventoryMessage(name, boot, sequence, found.as_dict())
        offered = self.ingest.offer(self.tokens[name], message.to_bytes())
        (taken,) = self.ingest.take([offered])
        return self.ingest.settle(offered, taken)

    def node(self, name: str = "gpu-1") -> Node:
        with self.catalogue.read() as view:
            return view.fleet.node(name)

    def write(self) -> None:
        self.ingest.write(self.ingest.heard())


@pytest.fixture
def world(tmp_path: Path) -> World:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    migrate.upgrade(url)
    made = World(open_catalogue(url))
    made.enroll()
    return made


FOUND = inventory("gpu-1", [on_disk(ENGINE)])
ON_DISK = FOUND.as_dict()["engines"][0]


def test_the_first_heartbeat_asks_for_the_inventory_and_the_next_does_not(world: World) -> None:
    assert world.beat("gpu-1", 1, FOUND) is Wish.WANTED
    assert world.put("gpu-1", 2, FOUND)
    assert world.beat("gpu-1", 3, FOUND) is Wish.KNOWN


def test_a_heartbeat_without_news_asks_the_catalogue_nothing(world: World) -> None:
    world.put("gpu-1", 1, FOUND)
    with asked() as statements:
        world.beat("gpu-1", 2, FOUND)
    assert statements == []


def test_a_crash_loses_when_a_node_was_seen_last_and_nothing_else(world: World) -> None:
    world.put("gpu-1", 1, FOUND)
    world.now += timedelta(minutes=1)
    world.beat("gpu-1", 2, FOUND)
    world.restart()
    assert world.node().seen_at == NOON
    assert world.beat("gpu-1", 3, FOUND) is Wish.KNOWN
    world.write()
    assert (world.node().seen_at, world.node().sequence) == (world.now, 3)


def test_what_could_not_be_written_is_written_the_next_time(world: World) -> None:
    world.beat("gpu-1", 1, FOUND)
    lost = world.ingest.heard()
    world.ingest.keep(lost)
    world.write()
    assert world.node().sequence == 1


def test_the_same_inventory_again_is_no_news(world: World) -> None:
    assert world.put("gpu-1", 1, FOUND)
    assert not world.put("gpu-1", 1, FOUND)
    assert not world.put("gpu-1", 2, replace(FOUND, taken_at="2026-11-26T12:00:00+00:00"))


def test_a_new_driver_is_news_at_once(world: World) -> None:
    world.put("gpu-1", 1, FOUND)
    later = replace(FOUND, driver=DriverState("595.71.05", "13.2"))
    assert world.beat("gpu-1", 2, later) is Wish.WANTED
    assert world.put("gpu-1", 3, later)
    with world.catalogue.read() as view:
        (found,) = view.fleet.where(WhereFilter())
    assert (found.driver, found.engine) == ("595.71.05", str(ENGINE))


def test_what_runs_is_kept_with_its_evidence(world: World) -> None:
    shown = RunningEngine(str(ENGINE), "/engines/m", 7, "", Evidence.CONFIRMED, ("GPU-00000001",))
    said = replace(shown, path="/elsewhere", evidence=Evidence.DECLARED, devices=())
    world.put("gpu-1", 1, replace(FOUND, running=(shown, replace(said, path="/engines/m"), said)))
    with world.catalogue.read() as view:
        found = [(one.path, one.bytes, one.running, one.devices) for one in
                 view.fleet.where(WhereFilter())]  # fmt: skip
    assert found == [
        ("/elsewhere", None, "declared", None),
        ("/engines/m", "verified", "confirmed", ["GPU-00000001"]),
    ]


def test_the_images_that_processes_told_are_kept_apart_from_one_that_told_none(
    world: World,
) -> None:
    one = RunningEngine(str(ENGINE), "/engines/m", 7, "", Evidence.DECLARED, image="x:1")
    other = replace(one, pid=8, image=None)
    world.put("gpu-1", 1, replace(FOUND, running=(one, other, replace(other, path="/else"))))
    with world.catalogue.read() as view:
        node = view.fleet.node("gpu-1")
        assert [(each.path, each.images) for each in view.fleet.engines_on(node)] == [
            ("/else", ()), ("/engines/m", (None, "x:1")),
        ]  # fmt: skip
        assert node.engine_set is not None
        assert view.fleet.images([node.engine_set]) == {
            node.engine_set: [(str(ENGINE), None), (str(ENGINE), "x:1")]
        }


def test_an_image_without_end_is_refused(world: World) -> None:
    run = RunningEngine(str(ENGINE), "/engines/m", 7, "", Evidence.DECLARED, image="x" * 501)
    with pytest.raises(InputError, match="the image is too long"):
        world.put("gpu-1", 1, replace(FOUND, running=(run,)))


def test_a_replayed_heartbeat_is_refused_and_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.beat("gpu-1", 5, FOUND)
    for sequence in (5, 4):
        with pytest.raises(ReplayedError, match="not newer"):
            world.beat("gpu-1", sequence, FOUND)
    assert "sequence 4 of boot boot-1 after 5 of boot boot-1" in caplog.text


def test_an_inventory_that_comes_late_is_refused(world: World) -> None:
    world.put("gpu-1", 5, FOUND)
    with pytest.raises(ReplayedError):
        world.put("gpu-1", 4, inventory("gpu-1"))
    with pytest.raises(ReplayedError):
        world.put("gpu-1", 5, inventory("gpu-1"))
    with world.catalogue.read() as view:
        assert [one.engine for one in view.fleet.where(WhereFilter())] == [str(ENGINE)]


def test_of_two_agents_with_one_identity_one_is_refused_for_good(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.beat("gpu-1", 10, FOUND, boot_id="boot-a")
    world.beat("gpu-1", 11, FOUND, boot_id="boot-b")
    for sequence in (12, 13, 99):
        with pytest.raises(ReplayedError, match="its boot was followed by another"):
            world.beat("gpu-1", sequence, FOUND, boot_id="boot-a")
    assert world.beat("gpu-1", 12, FOUND, boot_id="boot-b") is Wish.WANTED
    assert "of boot boot-a after 11 of boot boot-b" in caplog.text


def test_earlier_boots_are_known_after_a_restart(world: World) -> None:
    world.beat("gpu-1", 10, FOUND, boot_id="boot-a")
    world.beat("gpu-1", 11, FOUND, boot_id="boot-b")
    world.write()
    world.restart()
    with pytest.raises(ReplayedError, match="followed by another"):
        world.beat("gpu-1", 12, FOUND, boot_id="boot-a")


def test_a_token_opens_nothing_for_another_node(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.enroll("gpu-2")
    with pytest.raises(ForeignNodeError):
        world.beat("gpu-1", 1, FOUND, token=world.tokens["gpu-2"])
    with pytest.raises(ForeignNodeError):
        world.put("gpu-1", 1, inventory("gpu-2"))
    assert "token of gpu-2 used for node gpu-1" in caplog.text


@pytest.mark.parametrize("token", ["", "x", "ek1.guessed.gpu-1", "ek1.guessed.gpu-9"])
def test_a_token_that_nobody_was_given_is_refused(world: World, token: str) -> None:
    with pytest.raises(UnknownTokenError):
        world.beat("gpu-1", 1, FOUND, token=token)


def test_a_retired_node_is_refused_within_a_refresh(world: World) -> None:
    world.put("gpu-1", 1, FOUND)
    with world.catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", world.now)
    assert world.ingest.refresh()
    with pytest.raises(UnknownTokenError):
        world.beat("gpu-1", 2, FOUND)


def test_a_node_retired_meanwhile_is_told_so(world: World) -> None:
    message = InventoryMessage("gpu-1", "boot-1", 1, FOUND.as_dict())
    offered = world.ingest.offer(world.tokens["gpu-1"], message.to_bytes())
    with world.catalogue.edit() as draft:
        draft.fleet.retire("gpu-1", world.now)
    (taken,) = world.ingest.take([offered])
    with pytest.raises(UnknownTokenError):
        world.ingest.settle(offered, taken)


def test_a_new_token_ends_the_old_one_and_lets_the_sequence_start_over(world: World) -> None:
    world.put("gpu-1", 100, FOUND)
    world.write()
    old, fresh = world.tokens["gpu-1"], make_token("gpu-1")
    with world.catalogue.edit() as draft:
        draft.fleet.renew("gpu-1", token_digest(fresh))
    world.ingest.refresh()
    world.tokens["gpu-1"] = fresh
    assert world.beat("gpu-1", 1, FOUND) is Wish.KNOWN
    with pytest.raises(UnknownTokenError):
        world.beat("gpu-1", 2, FOUND, token=old)


def test_many_nodes_enrolled_at_once_are_learned(world: World) -> None:
    token = make_token("sim-1")
    with world.catalogue.edit() as draft:
        draft.fleet.enroll_simulated({"sim-1": token_digest(token)}, labels={}, at=NOON)
    world.beat("gpu-1", 7, FOUND)
    world.ingest.refresh()
    assert world.ingest.authenticated(token).simulated
    with pytest.raises(ReplayedError):
        world.beat("gpu-1", 7, FOUND)


def test_what_was_said_since_a_backup_that_was_restored_is_asked_for_again(
    world: World, tmp_path: Path
) -> None:
    world.put("gpu-1", 1, inventory("gpu-1"))
    backup(world.catalogue.url, tmp_path / "kept")
    world.put("gpu-1", 2, FOUND)
    assert world.beat("gpu-1", 3, FOUND) is Wish.KNOWN
    restore(tmp_path / "kept", world.catalogue.url, overwrite=True)
    assert world.ingest.refresh()
    assert world.beat("gpu-1", 4, FOUND) is Wish.WANTED
    assert not world.ingest.refresh()


def test_a_node_that_a_restored_catalogue_does_not_know_is_heard_no_more(
    world: World, tmp_path: Path
) -> None:
    backup(world.catalogue.url, tmp_path / "kept")
    world.enroll("gpu-2")
    restore(tmp_path / "kept", world.catalogue.url, overwrite=True)
    world.ingest.refresh()
    with pytest.raises(UnknownTokenError):
        world.beat("gpu-2", 1, FOUND)


@pytest.mark.parametrize("problem", ["engines_problem", "runs_problem"])
def test_what_a_node_could_not_read_lies_there_still(world: World, problem: str) -> None:
    other = on_disk(digest_bytes(b"other"))
    world.put("gpu-1", 1, inventory("gpu-1", [on_disk(ENGINE), replace(other, path="/b")]))
    unread = inventory("gpu-1", [replace(other, path="/b")], **{problem: "a record is empty"})
    world.put("gpu-1", 2, unread)
    with world.catalogue.read() as view:
        placed = {one.engine for one in view.fleet.where(WhereFilter())}
    assert placed == {str(ENGINE), str(digest_bytes(b"other"))}


def test_new_labels_ask_for_the_inventory_again(world: World) -> None:
    world.put("gpu-1", 1, FOUND)
    with world.catalogue.edit() as draft:
        draft.fleet.relabel("gpu-1", {"pool": "new"})
    world.ingest.refresh()
    assert world.beat("gpu-1", 2, FOUND) is Wish.WANTED
    assert world.put("gpu-1", 3, FOUND)


@pytest.mark.parametrize("said", [True, False])
def test_simulated_is_what_the_server_enrolled_and_not_what_a_node_says(
    world: World, *, said: bool
) -> None:
    world.enroll("gpu-3", simulated=not said)
    with pytest.raises(RefusedMessageError, match="not of the kind"):
        world.put("gpu-3", 1, inventory("gpu-3", simulated=said))


@pytest.mark.parametrize("hours", [-200_000_000, -1, 0, 1, 60_000_000])
def test_a_wrong_clock_is_noted_and_not_refused(world: World, hours: int) -> None:
    moment = "0001-01-01T00:00:00+00:00" if hours < -1 else "9999-12-31T23:59:59+00:00"
    if abs(hours) <= 1:
        moment = (NOON + timedelta(hours=hours)).isoformat()
    document = json.loads(Heartbeat("gpu-1", None, 1, NOON, state_of({})).to_bytes())
    world.ingest.heartbeat(
        world.tokens["gpu-1"], json.dumps({**document, "sent_at": moment}).encode()
    )
    world.write()
    found = world.node()
    assert found.seen_at == NOON
    if abs(hours) <= 1:
        assert found.clock_offset == 3600 * hours
    assert found.clock_offset is not None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"node": "../../etc/passwd"},
        {"node": "x'; DROP TABLE nodes; --"},
        {"devices": "none"},
        {"labels": {"a": "\u001b[2J"}},
        {"labels": {"a": "x" * 5000}},
        {"labels": {str(at): "x" for at in range(100)}},
        {"driver": {"version": "9" * 50, "cuda": "13.0", "branch": None}},
        {"engines": [{**ON_DISK, "engine": "a" * 200 + ":" + "0" * 64}]},
        {"engines": [{**ON_DISK, "path": "/" * 5000}]},
        {"devices": [{**FOUND.as_dict()["devices"][0], "index": 10**12}]},
    ],
)  # fmt: skip
def test_an_inventory_that_is_none_is_refused_and_nothing_is_lost(
    world: World, change: dict[str, Any]
) -> None:
    world.put("gpu-1", 1, FOUND)
    message = InventoryMessage("gpu-1", "boot-1", 2, {**FOUND.as_dict(), **change})
    with pytest.raises(InputError):
        world.ingest.offer(world.tokens["gpu-1"], message.to_bytes())
    assert world.beat("gpu-1", 2, FOUND) is Wish.KNOWN


@pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00+23:59", "2026-11-26T00:00:00", "x"])
def test_a_time_of_a_node_that_is_none_is_left_out(world: World, text: str) -> None:
    world.put("gpu-1", 1, replace(FOUND, engines=(replace(FOUND.engines[0], placed_at=text),)))
    with world.catalogue.read() as view:
        (found,) = view.fleet.engines_on(view.fleet.node("gpu-1"))
    assert found.placed_at is None


def test_two_devices_of_one_uuid_are_refused(world: World) -> None:
    twice = replace(FOUND, devices=(FOUND.devices[0], replace(FOUND.devices[0], index=1)))
    with pytest.raises(InputError, match="one UUID"):
        world.put("gpu-1", 1, twice)


MESSAGES = st.lists(
    st.tuples(st.sampled_from(["beat", "put", "write"]), st.integers(0, 6), st.integers(0, 2)),
    max_size=12,
)


@settings(max_examples=25)
@given(MESSAGES)
def test_whatever_comes_in_whatever_order_the_newest_taken_inventory_stands(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[str, int, int]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('w')}/c.db"
    migrate.upgrade(url)
    world = World(open_catalogue(url))
    world.enroll()
    choices = [inventory("gpu-1", [on_disk(digest_bytes(bytes([at])))]) for at in range(3)]
    expected: tuple[int, Inventory | None] = (-1, None)
    for kind, sequence, choice in messages:
        if kind == "write":
            world.write()
            continue
        try:
            (world.beat if kind == "beat" else world.put)("gpu-1", sequence, choices[choice])
        except ReplayedError:
            continue
        assert sequence >= expected[0]
        expected = (sequence, choices[choice] if kind == "put" else expected[1])
    with world.catalogue.read() as view:
        found = [one.engine for one in view.fleet.where(WhereFilter())]
    assert found == [one.engine for one in (expected[1].engines if expected[1] else ())]
    world.catalogue.close()


def test_nothing_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.enroll("gpu-2")
    for _ in range(2):
        with pytest.raises(InputError):
            world.beat("gpu-1", 0, FOUND, token=world.tokens["gpu-2"])
    assert world.tokens["gpu-2"] not in caplog.text
