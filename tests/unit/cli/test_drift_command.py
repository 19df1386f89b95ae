"""`ek drift` and `ek assign`: what is otherwise, whose doing it was, and what somebody wants so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli.drift import _KINDS
from enginekeeper.fleet.health import CLOCK_MAY_BE_OFF
from enginekeeper.fleet.interface import DriverState, LostDevice
from enginekeeper.fleet.inventory import Evidence, Inventory, RunningEngine
from enginekeeper.orchestration.drift import DriftKind
from enginekeeper.orchestration.drift_report import drift_of
from registry.catalogue import Catalogue
from registry.digests import digest_bytes
from registry.fleet.tables import HeartbeatRow
from registry.lifecycle import quarantine
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.gpu_engines import H100, engine_in_channel, publish_for_gpu
from tests.factories.inventories import device, inventory, on_disk
from tests.fakes.statements import asked

Ek = Callable[..., Any]
R595 = DriverState("595.71.05", "13.2")
UNKNOWN = digest_bytes(b"nobody built it")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that passed on the nodes' GPU and is in the channel."""
    return engine_in_channel(site, tmp_path)


@pytest.fixture
def catalogue(site: Site) -> Catalogue:
    return site.bench.registry.catalogue


def under_h100_driver(found: Inventory) -> Inventory:
    return replace(found, driver=DriverState(H100.driver, H100.cuda_driver))


def node(name: str, *engines: object, **fields: Any) -> Inventory:  # noqa: ANN401 - of Inventory
    found = inventory(name, [on_disk(one) for one in engines], labels={"pool": "h100"})
    return replace(under_h100_driver(found), **fields)


def another(site: Site, directory: Path, **fields: Any) -> Engine:  # noqa: ANN401 - of a key
    """Publishes another engine of the model, which passed where the nodes are."""
    where = replace(H100, cuda_runtime=fields.get("cuda_runtime", H100.cuda_runtime))
    variant = variants_of(directory)[0]
    return publish_for_gpu(site, variant, where, content=b"other", **fields)


def set_clock(catalogue: Catalogue, name: str, *, ahead: int) -> None:
    """Lets a node's clock be so many seconds ahead, as its heartbeat told."""
    with catalogue.edit(actor="anna") as draft:
        row = draft.fleet.node(name).id
        draft.fleet._session.execute(
            update(HeartbeatRow).where(HeartbeatRow.node_id == row).values(clock_offset=ahead)
        )


def one_finding(ek: Ek, *options: str) -> Any:  # noqa: ANN401 - a JSON object
    (found,) = ek("drift", "--json", *options).json
    (finding,) = found["findings"]
    return finding


def test_a_node_with_what_it_should_have_is_in_sync(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest))
    said = ek("assign", "add", "pool=h100", engine.model_name, "prod", "--json")
    assert (said.json["nodes"], said.json["new"]) == (1, True)
    assert ek("drift", "--json").json == []
    (found,) = ek("drift", "--all", "--json").json
    assert (found["sync"], found["health"]) == ("in-sync", "healthy")
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK


def test_a_new_driver_makes_drift_with_its_report(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest))
    join(catalogue, node("gpu-1", engine.digest, driver=R595))
    finding = one_finding(ek)
    assert (finding["class"], finding["severity"], finding["cause"]) == (
        "driver", "high", "corrective",
    )  # fmt: skip
    fields = {one["field"]: (one["desired"], one["actual"]) for one in finding["fields"]}
    assert fields["driver"] == (H100.driver, "595.71.05")
    said = ek("drift", "--fail-on-drift")
    assert (said.code, "out-of-sync" in said.out) == (ExitCode.DRIFT, True)
    assert ek("drift").code == ExitCode.OK


def test_what_is_desired_and_absent_is_missing(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "gpu=*H100*", engine.model_name, "prod")
    join(catalogue, node("gpu-1"))
    finding = one_finding(ek)
    assert (finding["class"], finding["fields"][0]["desired"]) == ("missing", str(engine.digest))
    assert (finding["model"], finding["channel"]) == (engine.model_name, "prod")


def serving(engine: object, path: str = "/engines/old") -> RunningEngine:
    since = "2026-11-24T12:00:00+00:00"
    return RunningEngine(str(engine), path, 4711, since, Evidence.DECLARED, ())


def test_the_engine_before_that_still_serves_is_drift(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    before = another(site, tmp_path)
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    old = str(before.digest)
    join(catalogue, node("gpu-1", engine.digest, before.digest, running=(serving(old),)))
    finding = one_finding(ek)
    assert (finding["class"], finding["engine"]) == ("engine", old)
    assert finding["fields"] == [
        {"field": "running", "desired": str(engine.digest), "actual": old}
    ]  # fmt: skip
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT


def test_an_engine_that_serves_beside_the_desired_one_is_no_drift(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    before = another(site, tmp_path)
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    both = (serving(before.digest), serving(engine.digest, "/engines/new"))
    join(catalogue, node("gpu-1", engine.digest, before.digest, running=both))
    assert ek("drift", "--json").json == []


def test_an_engine_whose_record_cannot_be_read_is_not_missing(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    join(catalogue, node("gpu-1", engine.digest))
    join(catalogue, node("gpu-1", engines_problem="a record cannot be read"))
    assert [one["engine"] for one in ek("where", "--json").json] == [str(engine.digest)]
    (found,) = ek("drift", "--all", "--json").json
    assert (found["sync"], found["health"], found["findings"]) == ("in-sync", "degraded", [])


def test_nothing_that_may_run_there_is_missing_with_the_reason(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "canary")
    join(catalogue, node("gpu-1"))
    assert "the channel has no engine of the model" in one_finding(ek)["reason"]


def test_another_engine_of_the_model_is_told_field_by_field(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    other = another(site, tmp_path, cuda_runtime="12.4")
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node("gpu-1", other.digest))
    finding = one_finding(ek)
    assert (finding["class"], finding["cause"]) == ("engine", "corrective")
    fields = {one["field"]: (one["desired"], one["actual"]) for one in finding["fields"]}
    assert fields["cuda_runtime"] == (H100.cuda_runtime, "12.4")


@pytest.mark.parametrize(
    ("field", "kind"), [("build_config", "build-flags"), ("container", "container")]
)
def test_what_differs_in_flags_or_container_alone_is_told_apart(
    *, ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path,
    field: str, kind: str,
) -> None:  # fmt: skip
    other = another(site, tmp_path, **{field: str(UNKNOWN)})
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node("gpu-1", other.digest))
    finding = one_finding(ek)
    assert (finding["class"], finding["fields"][1]["field"]) == (kind, field)


def test_a_channel_that_was_moved_is_intentional_until_the_node_follows(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node("gpu-1", engine.digest))
    other = another(site, tmp_path, build_config=str(UNKNOWN))
    site.bench.registry.set_channel("prod", other.digest, H100, actor="anna")
    assert one_finding(ek)["cause"] == "intentional"


def test_an_assignment_is_intentional_until_the_node_follows(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1"))
    ek("assign", "add", "*", engine.model_name, "prod")
    assert one_finding(ek)["cause"] == "intentional"


def test_a_move_for_other_hardware_is_nothing_that_a_node_has_to_follow(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, node("gpu-1", another(site, tmp_path, build_config=str(UNKNOWN)).digest))
    l4 = replace(H100, product="NVIDIA L4", compute_capability="8.9")
    (variant,) = variants_of(tmp_path)
    variant = replace(variant, target=replace(variant.target, gpu="l4"))
    moved = publish_for_gpu(
        site, variant, l4, content=b"l4", gpu_product=l4.product, compute_capability="8.9"
    )
    site.bench.registry.set_channel("prod", moved.digest, l4, actor="anna")
    finding = one_finding(ek)
    assert (finding["class"], finding["cause"]) == ("build-flags", "corrective")


def test_a_quarantined_engine_is_critical(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest))
    quarantine(site.bench.registry, engine, "smells")
    finding = one_finding(ek)
    assert (finding["class"], finding["severity"], finding["cause"]) == (
        "revoked", "critical", "intentional",
    )  # fmt: skip


def test_an_engine_that_nobody_knows_and_bytes_that_changed_are_told(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", UNKNOWN))
    changed = replace(node("gpu-2"), engines=(on_disk(engine.digest, "CHANGED"),))
    join(catalogue, changed)
    found = {one["node"]: one["findings"][0] for one in ek("drift", "--json").json}
    assert found["gpu-1"]["class"] == "unknown"
    assert (found["gpu-2"]["class"], found["gpu-2"]["severity"]) == ("bytes", "critical")


def test_an_engine_that_was_never_judged_is_unqualified(
    ek: Ek, site: Site, catalogue: Catalogue, tmp_path: Path
) -> None:
    made = publish_for_gpu(site, variants_of(tmp_path)[0])
    join(catalogue, node("gpu-1", made.digest))
    assert one_finding(ek)["class"] == "unqualified"


def test_an_engine_on_a_gpu_of_unknown_split_is_unqualified_and_nothing_may_run_there(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    untold = device(0, mig=None, unread={"mig": "Insufficient Permissions"})
    join(catalogue, node("gpu-1", engine.digest, devices=(untold, device(1))))
    (found,) = ek("drift", "--json").json
    assert (found["sync"], [one["class"] for one in found["findings"]]) == (
        "out-of-sync", ["unqualified", "missing"],
    )  # fmt: skip
    assert "nobody can tell" in found["findings"][0]["fields"][0]["actual"]


def test_a_failed_verdict_is_critical(
    ek: Ek, site: Site, catalogue: Catalogue, tmp_path: Path
) -> None:
    made = publish_for_gpu(site, variants_of(tmp_path)[0], H100)
    site.judge(made, variants_of(tmp_path)[0], Result.FAIL, H100)
    join(catalogue, node("gpu-1", made.digest))
    finding = one_finding(ek)
    assert (finding["class"], finding["severity"]) == ("unqualified", "critical")


def test_a_stale_agent_is_health_and_leaves_sync_alone(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest), now=datetime.now(UTC) - timedelta(hours=1))
    ek("assign", "add", "*", engine.model_name, "prod")
    (found,) = ek("drift", "--json").json
    assert (found["sync"], found["health"]) == ("in-sync", "stale")
    assert found["findings"][0]["class"] == "stale"
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT
    assert ek("drift", "--fail-on-drift", "--stale-after", "7200").code == ExitCode.OK
    assert ek("drift", "--summary", "--json").json["health"]["stale"] == 1


def test_what_somebody_wants_is_shown_and_fails_nothing(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest, driver=R595), pool="h100")
    ek("assign", "add", "pool=none", engine.model_name, "prod")
    ek("drift", "ignore", "driver", "pool=h100", "--reason", "canary of R595")
    finding = one_finding(ek)
    assert "canary of R595" in finding["ignored"]
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK
    summary = ek("drift", "--summary", "--json").json
    assert (summary["ignored"], summary["drift"], summary["worst"]) == ({"driver": 1}, {}, None)
    assert ek("drift", "rules", "--json").json[0]["selector"] == "pool=h100"
    assert ek("drift", "heed", "driver", "pool=h100").code == ExitCode.OK
    assert ek("drift", "--fail-on-drift").code == ExitCode.DRIFT


def running(name: str, engine: object, *images: str | None) -> Inventory:
    """A node on which processes run an engine, each in an image."""
    runs = (
        RunningEngine(str(engine), "/engines/m", at, "", Evidence.DECLARED, image=image)
        for at, image in enumerate(images)
    )
    return node(name, engine, running=tuple(runs))


def test_what_runs_in_another_image_than_the_assignment_names_is_drift(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "pool=h100", engine.model_name, "prod", "--container", "x:2")
    join(catalogue, running("gpu-1", engine.digest, "x:1"), running("gpu-2", engine.digest, "x:2"))
    (found,) = ek("drift", "--json").json
    (finding,) = found["findings"]
    assert (found["node"], found["sync"]) == ("gpu-1", "out-of-sync")
    assert (finding["class"], finding["severity"], finding["cause"]) == (
        "container", "medium", "corrective",
    )  # fmt: skip
    assert finding["fields"] == [{"field": "image", "desired": "x:2", "actual": "x:1"}]
    assert (finding["engine"], finding["reason"]) == (str(engine.digest), "runs in x:1: by text")
    assert ek("drift", "--fail-on-drift", "--class", "container").code == ExitCode.DRIFT
    summary = ek("drift", "--summary", "--json").json
    assert (summary["drift"], summary["worst"]) == ({"container": 1}, "medium")


def test_an_image_that_nobody_told_is_said_to_be_unknown_where_one_is_named(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, running("gpu-1", engine.digest, None), node("gpu-2", engine.digest))
    assert ek("drift", "--json").json == []
    ek("assign", "add", "*", engine.model_name, "prod", "--container", f"x@sha256:{'a' * 64}")
    (found,) = ek("drift", "--json").json
    (finding,) = found["findings"]
    assert (found["node"], finding["severity"], finding["fields"][0]["actual"]) == (
        "gpu-1", "low", "unknown",
    )  # fmt: skip
    assert "cannot be told" in finding["reason"]


def test_an_image_named_later_is_intentional_until_the_process_is_started_in_it(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod", "--container", "x:1")
    join(catalogue, running("gpu-1", engine.digest, "x:1"))
    assert ek("drift", "--json").json == []
    said = ek("assign", "add", "*", engine.model_name, "prod", "--container", "x:2")
    assert "in x:2 from now on" in said.err
    finding = one_finding(ek)
    (assigned,) = ek("assign", "list", "--json").json
    assert (finding["cause"], finding["since"]) == ("intentional", assigned["container_at"])
    join(catalogue, running("gpu-1", engine.digest, "x:3"))
    finding = one_finding(ek)
    assert (finding["cause"], finding["since"] > assigned["container_at"]) == ("corrective", True)
    join(catalogue, running("gpu-1", engine.digest, "x:2"))
    assert ek("drift", "--json").json == []


def test_an_image_stays_named_until_it_is_taken_back(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    assignment = ("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, running("gpu-1", engine.digest, "x:1", None))
    assert ek(*assignment, "--container", "x:1", "--json").json["container"] == "x:1"
    assert ek(*assignment, "--json").json["container"] == "x:1"
    assert one_finding(ek)["fields"][0]["actual"] == "unknown"
    assert "any container" in ek(*assignment, "--any-container").err
    assert ek("assign", "list", "--json").json[0]["container"] is None
    assert ek("drift", "--json").json == []
    assert ek(*assignment, "--container", "X:1").code == ExitCode.INVALID_INPUT
    assert ek(*assignment, "--container", "x", "--any-container").code == ExitCode.USAGE


def test_drift_of_a_container_that_somebody_wants_fails_nothing(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    ek("assign", "add", "*", engine.model_name, "prod", "--container", "x:2")
    join(catalogue, running("gpu-1", engine.digest, "x:1"), pool="h100")
    ek("drift", "ignore", "container", "pool=h100", "--reason", "trial of x:1")
    assert "trial of x:1" in one_finding(ek)["ignored"]
    assert ek("drift", "--fail-on-drift").code == ExitCode.OK


def test_images_are_asked_in_one_statement_and_only_where_one_is_named(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine
) -> None:
    def statements() -> list[str]:
        with asked() as found:
            drift_of(site.bench.registry, datetime.now(UTC), verified=False)
        return found

    ek("assign", "add", "*", engine.model_name, "prod")
    join(catalogue, *(running(f"gpu-{at}", engine.digest, f"x:{at}") for at in range(5)))
    without = statements()
    ek("assign", "add", "*", engine.model_name, "prod", "--container", "x:1")
    assert len(statements()) == len(without) + 1


def test_the_summary_counts_every_node_once(ek: Ek, catalogue: Catalogue, engine: Engine) -> None:
    join(catalogue, node("gpu-1", engine.digest), node("gpu-2", engine.digest, driver=R595))
    join(catalogue, node("gpu-3", UNKNOWN, UNKNOWN), node("gpu-4"))
    ek("node", "enroll", "gpu-5")
    ek("assign", "add", "pool=h100", engine.model_name, "prod")
    summary = ek("drift", "--summary", "--json").json
    assert summary["nodes"] == 5
    assert summary["sync"] == {"in-sync": 1, "out-of-sync": 3, "unknown": 1}
    assert summary["health"] == {"healthy": 4, "degraded": 0, "stale": 0, "silent": 1}
    assert summary["drift"]["unknown"] == 1
    assert summary["worst"] == "high"
    assert "signatures were not asked" in ek("drift", "--summary").out


def test_the_summary_follows_what_is_recorded_at_once(
    ek: Ek, site: Site, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    def said() -> tuple[dict[str, int], dict[str, int]]:
        found = drift_of(site.bench.registry, datetime.now(UTC), verified=False).summary()
        return found["drift"], found["ignored"]

    join(catalogue, node("gpu-1", engine.digest))
    assert said() == ({}, {})
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, H100)
    assert said() == ({"unqualified": 1}, {})
    ek("drift", "ignore", "unqualified", "*", "--reason", "known")
    assert said() == ({}, {"unqualified": 1})
    ek("drift", "heed", "unqualified", "*")
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, H100)
    assert said() == ({}, {})
    join(catalogue, node("gpu-1", engine.digest, driver=R595))
    assert said() == ({"driver": 1}, {})
    quarantine(site.bench.registry, engine, "smells")
    assert said() == ({"revoked": 1}, {})
    ek("assign", "add", "*", engine.model_name, "prod")
    assert said() == ({"missing": 1, "revoked": 1}, {})


def test_summary_and_listing_say_the_same(ek: Ek, catalogue: Catalogue, engine: Engine) -> None:
    join(catalogue, node("gpu-1", engine.digest), node("gpu-2", engine.digest, driver=R595))
    join(catalogue, node("gpu-3", UNKNOWN), node("gpu-4", lost=(LostDevice(1, "GPU is lost"),)))
    for name in ("gpu-2", "gpu-4"):
        set_clock(catalogue, name, ahead=CLOCK_MAY_BE_OFF + 1)
    set_clock(catalogue, "gpu-3", ahead=-CLOCK_MAY_BE_OFF)
    listed, counted = (ek("drift", how, "--json").json for how in ("--all", "--summary"))
    for column in ("sync", "health"):
        said = Counter(one[column] for one in listed)
        assert said == {name: count for name, count in counted[column].items() if count}
    assert counted["health"]["degraded"] == 2


def test_every_class_of_drift_can_be_chosen() -> None:
    assert tuple(DriftKind) == _KINDS


def test_nodes_and_classes_are_chosen(ek: Ek, catalogue: Catalogue, engine: Engine) -> None:
    join(catalogue, node("gpu-1", UNKNOWN), node("gpu-2", engine.digest, driver=R595))
    assert [one["node"] for one in ek("drift", "--node", "gpu-1", "--json").json] == ["gpu-1"]
    assert [one["node"] for one in ek("drift", "--class", "driver", "--json").json] == ["gpu-2"]
    assert ek("drift", "--summary", "--class", "driver").code == ExitCode.USAGE


def test_what_cannot_be_assigned_is_refused(ek: Ek, engine: Engine) -> None:
    for arguments in (
        ("pool", engine.model_name, "prod"),
        ("*", "../x", "prod"),
        ("*", engine.model_name, "a b"),
    ):
        assert ek("assign", "add", *arguments).code == ExitCode.INVALID_INPUT
    assert ek("assign", "remove", "*", engine.model_name, "prod").code == ExitCode.NOT_FOUND
    assert ek("drift", "heed", "driver", "*").code == ExitCode.NOT_FOUND


def test_assignments_are_listed_and_removed(ek: Ek, engine: Engine) -> None:
    ek("assign", "add", "*", engine.model_name, "prod")
    assert "was assigned already" in ek("assign", "add", "*", engine.model_name, "prod").err
    assert [one["selector"] for one in ek("assign", "list", "--json").json] == ["*"]
    assert ek("assign", "remove", "*", engine.model_name, "prod").code == ExitCode.OK
    assert ek("assign", "list", "--json").json == []


def test_a_name_that_is_no_node_is_no_fleet_without_drift(
    ek: Ek, catalogue: Catalogue, engine: Engine
) -> None:
    join(catalogue, node("gpu-1", engine.digest, driver=R595))
    assert ek("drift", "--fail-on-drift", "--node", "gpu-*").code == ExitCode.DRIFT
    said = ek("drift", "--fail-on-drift", "--node", "gpx-*", "--node", "gpu-1")
    assert (said.code, "gpx-*" in said.err) == (ExitCode.NOT_FOUND, True)
