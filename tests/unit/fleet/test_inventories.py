"""Inventories from outside: read strictly, the newest of each node, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError, MissingError
from enginekeeper.fleet.interface import GpuProcess, LostDevice, MigSlice
from enginekeeper.fleet.inventories import MAX_BYTES, parse_inventory, read_inventories
from enginekeeper.fleet.inventory import Evidence, RunningEngine
from registry.digests import digest_bytes
from tests.factories.inventories import device, inventory, on_disk, write_inventory

ENGINE = digest_bytes(b"engine")
FULL = inventory(
    engines=[on_disk(ENGINE)],
    devices=(
        device(mig=True, slices=(MigSlice("MIG-1", "1g.10gb"),), processes=(GpuProcess(7, None),)),
        device(1, mig=None, vbios=None, memory_bytes=None, unread={"mig": "Not Supported"}),
    ),
    lost=(LostDevice(2, "GPU is lost"),),
    running=(
        RunningEngine(
            str(ENGINE),
            "/engines/m",
            7,
            "2026-11-26T02:00:00+00:00",
            Evidence.CONFIRMED,
            ("MIG-1",),
        ),
    ),
    labels={"pool": "h100"},
)


def written(change: Callable[[dict[str, Any]], None] = lambda _: None) -> bytes:
    document = json.loads(json.dumps(FULL.as_dict()))
    change(document)
    return json.dumps(document).encode()


def test_what_a_node_wrote_is_read_back_whole() -> None:
    assert parse_inventory(written(), "x") == FULL


def test_a_document_of_the_first_schema_is_read_and_runs_nothing() -> None:
    def old(document: dict[str, Any]) -> None:
        document["schema"] = 1
        del document["running"], document["runs_problem"]

    found = parse_inventory(written(old), "x")
    assert (found.schema, found.running, found.engines) == (1, (), FULL.engines)


def test_a_directory_a_file_and_lines_are_read(tmp_path: Path) -> None:
    one = write_inventory(tmp_path / "a", inventory("n1"))
    (tmp_path / "a" / ".draft.json").write_text("{")
    (tmp_path / "a" / "README").write_text("no inventory")
    lines = tmp_path / "b.jsonl"
    lines.write_text("\n".join(json.dumps(inventory(n).as_dict()) for n in ("n3", "n2")) + "\n\n")
    assert [one.node for one in read_inventories([tmp_path / "a", lines])] == ["n1", "n2", "n3"]
    assert read_inventories([one])[0] == inventory("n1")


def test_the_newest_document_of_a_node_counts_whatever_its_place(tmp_path: Path) -> None:
    old = inventory(taken_at="2026-11-26T04:00:00+02:00")
    new = inventory(taken_at="2026-11-26T03:00:00+00:00")
    a, b = (write_inventory(tmp_path / name, one) for name, one in (("a", new), ("b", old)))
    assert read_inventories([a, b]) == read_inventories([b, a]) == (new,)


def test_no_document_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no inventory") as caught:
        read_inventories([tmp_path])
    assert "agent once" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(schema=3), "schema 3"),
        (lambda d: d.update(schema=[]), "schema []"),
        (lambda d: d.pop("schema"), "schema None"),
        (lambda d: d.update(node="../etc"), "not usable as a name"),
        (lambda d: d.update(node=5), "node"),
        (lambda d: d.update(taken_at="2026-11-26T03:00:00"), "no time zone"),
        (lambda d: d.update(taken_at="now"), "now"),
        (lambda d: d.pop("host"), "host"),
        (lambda d: d["host"].update(cpus="96"), "host.cpus"),
        (lambda d: d["devices"][0].update(memory_bytes=1.5), "devices.0.memory_bytes"),
        (lambda d: d["devices"][0].update(product="H\x1b[2J"), "control characters"),
        (lambda d: d["labels"].update({"a\nb": "c"}), "control characters"),
        (lambda d: d["engines"][0].update(engine="abc"), "not a digest"),
        (lambda d: d["running"][0].update(engine="abc"), "not a digest"),
        (lambda d: d["running"][0].update(pid="7"), "running.0.pid"),
        (lambda d: d["engines"][0].update(evidence="rumour"), "engines.0.evidence"),
        (lambda d: d.update(driver={"version": "580"}), "driver.cuda"),
    ],
)
def test_what_is_no_inventory_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], named: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_inventory(written(change), "node.json")
    assert named in str(caught.value)
    assert str(caught.value.where).startswith("node.json")


@pytest.mark.parametrize("text", [b"", b"[]", b"nul", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}'])
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(InputError):
        parse_inventory(text, "node.json")


def test_a_huge_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InputError, match="too large"):
        parse_inventory(b"[" * (MAX_BYTES + 1), "node.json")


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["node", "host", "devices", "engines", "labels", "driver", "lost", "agent"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
        ),
        max_leaves=4,
    ),
)
def test_any_value_in_any_field_is_read_or_refused(field: str, value: object) -> None:
    text = written(lambda document: document.update({field: value}))
    try:
        parse_inventory(text, "node.json")
    except InputError:
        return
