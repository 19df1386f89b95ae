"""`ek node` and `ek nodes`: enrolment, labels, how each node is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet.interface import LostDevice
from enginekeeper.fleet.inventory import Evidence, Inventory, RunningEngine
from enginekeeper.fleet.nodes import facts_of
from enginekeeper.fleet.tokens import is_token
from registry.digests import digest_bytes
from tests.factories.benches import Site
from tests.factories.fleet import join
from tests.factories.inventories import device, inventory, on_disk

Ek = Callable[..., Any]
ENGINE = digest_bytes(b"engine")


def node_of(site: Site, name: str) -> Any:  # noqa: ANN401 - a node
    with site.bench.registry.catalogue.read() as view:
        return view.fleet.node(name)


def test_a_token_is_shown_once_and_its_digest_kept(ek: Ek, site: Site) -> None:
    said = ek("node", "enroll", "gpu-1", "--label", "pool=h100", "--json")
    assert said.code == ExitCode.OK
    token = said.json["token"]
    assert is_token(token, node_of(site, "gpu-1").token)
    assert token not in ek("node", "show", "gpu-1", "--json").out
    assert node_of(site, "gpu-1").labels == {"pool": "h100"}


def test_a_node_is_enrolled_once_and_gets_a_new_token_on_demand(ek: Ek, site: Site) -> None:
    first = ek("node", "enroll", "gpu-1").out.strip()
    assert ek("node", "enroll", "gpu-1").code == ExitCode.UNAVAILABLE
    again = ek("node", "enroll", "gpu-1", "--again").out.strip()
    assert not is_token(first, node_of(site, "gpu-1").token)
    assert is_token(again, node_of(site, "gpu-1").token)
    assert ek("node", "enroll", "gpu-2", "--again").code == ExitCode.NOT_FOUND


def test_what_is_no_name_and_no_label_is_refused(ek: Ek) -> None:
    assert ek("node", "enroll", "../x").code == ExitCode.INVALID_INPUT
    assert ek("node", "enroll", "gpu-1", "--label", "pool").code == ExitCode.INVALID_INPUT
    assert ek("node", "enroll", "gpu-1", "--label", "a=" + "x" * 300).code == ExitCode.INVALID_INPUT
    assert ek("node", "enroll", "gpu-1", "--again", "--simulated").code == ExitCode.USAGE
    assert ek("nodes", "--json").json == []


def test_labels_are_set_and_removed(ek: Ek, site: Site) -> None:
    ek("node", "enroll", "gpu-1", "--label", "pool=h100", "--label", "zone=a")
    assert ek("node", "label", "gpu-1", "zone-", "rack=7").code == ExitCode.OK
    assert node_of(site, "gpu-1").labels == {"pool": "h100", "rack": "7"}


def test_a_node_is_retired_after_asking_and_its_history_stays(ek: Ek, site: Site) -> None:
    join(site.bench.registry.catalogue, inventory("gpu-1", [on_disk(ENGINE)]))
    assert ek("node", "retire", "gpu-1").code == ExitCode.USAGE
    assert ek("node", "retire", "gpu-1", "--dry-run").code == ExitCode.OK
    assert len(ek("nodes", "--json").json) == 1
    assert ek("node", "retire", "gpu-1", "--yes").code == ExitCode.OK
    assert ek("nodes", "--json").json == []
    (row,) = ek("nodes", "--retired", "--json").json
    assert row["health"] == "retired"
    assert ek("node", "show", "gpu-1", "--json").json["history"][0]["until"] is not None
    assert ek("node", "retire", "gpu-1", "--yes").code == ExitCode.NOT_FOUND


def test_nodes_say_how_they_are_and_why(ek: Ek, site: Site) -> None:
    catalogue = site.bench.registry.catalogue
    ago = datetime.now(UTC) - timedelta(hours=5)
    join(catalogue, inventory("gpu-1"), inventory("gpu-2", lost=(LostDevice(3, "Xid 79"),)))
    join(catalogue, inventory("gpu-3"), now=ago)
    ek("node", "enroll", "gpu-4")
    rows = {row["node"]: row for row in ek("nodes", "--json").json}
    assert {name: row["health"] for name, row in rows.items()} == {
        "gpu-1": "healthy", "gpu-2": "degraded", "gpu-3": "stale", "gpu-4": "silent",
    }  # fmt: skip
    assert rows["gpu-2"]["why"] == ["GPU 3: Xid 79"]
    assert rows["gpu-3"]["why"] == ["not heard for 5h"]
    assert "8 x NVIDIA H100 80GB HBM3" in ek("nodes").out


def test_an_error_of_a_gpu_is_shown_and_one_of_an_application_makes_no_node_ill(
    ek: Ek, site: Site
) -> None:
    def having(name: str, **fields: Any) -> Inventory:  # noqa: ANN401 - of a device
        return inventory(name, devices=(device(), device(1, **fields)))

    at = "2026-11-26T03:00:00+00:00"
    ill = having("gpu-2", xid=48, xid_at=at)
    join(
        site.bench.registry.catalogue, having("gpu-1", xid=31, xid_at=at), ill,
        having("gpu-3", rows_failed=True),
    )  # fmt: skip
    rows = {row["node"]: row for row in ek("nodes", "--json").json}
    assert {name: row["why"] for name, row in rows.items()} == {
        "gpu-1": [], "gpu-2": ["GPU 1: Xid 48"],
        "gpu-3": ["GPU 1: a memory row could not be replaced"],
    }  # fmt: skip
    assert rows["gpu-2"]["health"] == "degraded"
    assert ek("drift", "--summary", "--json").json["health"]["degraded"] == 2
    text = ek("node", "show", "gpu-2").out.splitlines()
    assert sum(f"last Xid 48 at {at}" in line for line in text) == 1
    assert "last Xid 31" in ek("node", "show", "gpu-1").out
    assert facts_of(ill).problems == ()  # it holds no node in a wave


def test_nodes_are_picked_by_name_or_label(ek: Ek, site: Site) -> None:
    join(
        site.bench.registry.catalogue, inventory("gpu-1", labels={"pool": "a"}), inventory("gpu-2")
    )
    assert [row["node"] for row in ek("nodes", "--nodes", "pool=a", "--json").json] == ["gpu-1"]
    assert len(ek("nodes", "--nodes", "gpu-{1,2}", "--json").json) == 2
    assert ek("node", "list", "--nodes", "cpu-*").code == ExitCode.NOT_FOUND


def test_a_node_is_shown_with_all_that_is_known(ek: Ek, site: Site) -> None:
    join(
        site.bench.registry.catalogue,
        inventory("gpu-1", [on_disk(ENGINE)], labels={"pool": "h100"}),
    )
    document = ek("node", "show", "gpu-1", "--json").json
    assert len(document["devices"]) == 8
    assert document["engines"][0]["engine"] == str(ENGINE)
    assert document["inventory"]["host"]["cpus"] == 96
    text = ek("node", "show", "gpu-1").out
    for line in ("driver:   580.95.05, CUDA 13.0", "labels:   pool=h100", ENGINE.short):
        assert line in text
    assert ek("node", "show", "gpu-9").code == ExitCode.NOT_FOUND


def test_the_image_that_a_start_named_is_shown(ek: Ek, site: Site) -> None:
    run = RunningEngine(
        str(ENGINE), "/engines/m", 7, "2026-11-26T03:00:00+00:00", Evidence.DECLARED,
        image="nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
    )  # fmt: skip
    join(site.bench.registry.catalogue, inventory("gpu-1", running=(run,)))
    said = ek("node", "show", "gpu-1").out
    assert f"runs in:  {run.image} (declared), process 7, engine {ENGINE.short}" in said


def test_that_a_start_named_no_image_is_shown_and_is_no_drift(ek: Ek, site: Site) -> None:
    run = RunningEngine(
        str(ENGINE), "/engines/m", 7, "2026-11-26T03:00:00+00:00", Evidence.DECLARED
    )
    join(site.bench.registry.catalogue, inventory("gpu-1", running=(run,)))
    assert (
        "runs in:  unknown (its start named no image), process 7" in ek("node", "show", "gpu-1").out
    )
    assert ek("drift", "--class", "container", "--json").json == []


def test_the_image_that_an_assignment_names_is_shown(ek: Ek, site: Site) -> None:
    join(site.bench.registry.catalogue, inventory("gpu-1"))
    ek("assign", "add", "*", "m", "prod", "--container", "x:1")
    ek("assign", "add", "pool=none", "m", "prod", "--container", "x:2")
    assert ek("node", "show", "gpu-1", "--json").json["desired"][0]["containers"] == ["x:1"]
    assert ek("node", "show", "gpu-1").out.count(", in x:") == 1


def test_simulated_nodes_are_said_to_be(ek: Ek, site: Site) -> None:
    join(
        site.bench.registry.catalogue, inventory("gpu-1"),
        inventory("sim-1", [on_disk(ENGINE)], simulated=True),
    )  # fmt: skip
    said = ek("nodes")
    assert [line.split()[0] for line in said.out.splitlines() if "SIMULATED" in line] == ["sim-1"]
    assert "SIMULATED" in said.err
    assert "SIMULATED" in ek("node", "show", "sim-1").out
    assert "SIMULATED" in ek("where").out


def test_a_simulated_fleet_is_made_by_one_command(ek: Ek, site: Site) -> None:
    said = ek("sim", "fleet", "--nodes", "20", "--pools", "2", "--json")
    assert (said.code, said.json) == (ExitCode.OK, {"nodes": 20, "new": 20, "pools": 2})
    assert ek("sim", "fleet", "--nodes", "20", "--json").json["new"] == 0
    assert node_of(site, "sim-000019").simulated
    assert ek("sim", "fleet", "--nodes", "1", "--prefix", "../x").code == ExitCode.INVALID_INPUT
    summary = ek("drift", "--summary", "--json").json
    assert (summary["nodes"], summary["health"]["stale"]) == (20, 0)
