"""`ek where` over the fleet, and when it asks this node instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventory import Evidence, RunningEngine
from registry.digests import digest_bytes
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.fleet import join
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import device, inventory, on_disk

Ek = Callable[..., Any]
UNKNOWN = digest_bytes(b"nobody built it")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def fleet(site: Site, engine: Engine) -> None:
    """Two nodes under two drivers; the second has an engine that nobody knows."""
    join(
        site.bench.registry.catalogue,
        inventory("gpu-1", [on_disk(engine.digest)]),
        inventory(
            "gpu-2", [on_disk(UNKNOWN)], devices=(device(0, uuid="GPU-two"),),
            driver=DriverState("595.71.05", "13.2"),
        ),
    )  # fmt: skip


def nodes(said: Any) -> list[str]:  # noqa: ANN401 - what a command said
    assert said.code == ExitCode.OK
    return [row["node"] for row in said.json]


@pytest.mark.usefixtures("fleet")
def test_engines_are_found_by_what_is_asked(ek: Ek, engine: Engine) -> None:
    for options, expected in (
        ((), ["gpu-1", "gpu-2"]),
        (("--engine", engine.digest.short), ["gpu-1"]),
        (("--engine", UNKNOWN), ["gpu-2"]),
        (("--model", engine.model_name), ["gpu-1"]),
        (("--model", "nothing"), []),
        (("--recipe", engine.recipe), ["gpu-1"]),
        (("--cuda", str(H100.cuda_runtime)), ["gpu-1"]),
        (("--cuda", ">=99"), []),
        (("--node", "gpu-2"), ["gpu-2"]),
        (("--node", "gpu-9"), []),
        (("--gpu-uuid", "GPU-two"), ["gpu-2"]),
        (("--driver", "R595"), ["gpu-2"]),
        (("--driver", ">=580,<590"), ["gpu-1"]),
        (("--channel", "prod"), []),
        (("--limit", "1"), ["gpu-1"]),
    ):
        assert nodes(ek("where", "--json", *options)) == expected, options


@pytest.mark.usefixtures("fleet")
def test_a_row_says_how_it_is_known_and_how_old_that_is(ek: Ek, engine: Engine) -> None:
    row = ek("where", "--node", "gpu-1", "--json").json[0]
    assert row["variant"] == engine.variant
    assert (row["evidence"], row["bytes"], row["stale"]) == ("on disk", "verified", False)
    assert row["heartbeat_age_seconds"] < 60
    assert "UNKNOWN" in ek("where", "--node", "gpu-2").out


def test_engines_on_other_gpus_of_the_node_use_no_limit_up(ek: Ek, site: Site) -> None:
    runs = [
        RunningEngine(str(digest_bytes(f"{at}".encode())), f"/engines/{at}", at, "2026-11-26T03:00",
                      Evidence.CONFIRMED, (f"GPU-{at:08d}",))
        for at in range(3)
    ]  # fmt: skip
    join(site.bench.registry.catalogue, inventory("gpu-1", running=tuple(runs)))
    asked = ("where", "--gpu-uuid", "GPU-00000002", "--limit", "1")
    assert [row["path"] for row in ek(*asked, "--json").json] == ["/engines/2"]
    assert "the first 1 rows" in ek(*asked).err


@pytest.mark.usefixtures("fleet")
def test_where_a_gpu_was_is_not_known_and_said(ek: Ek) -> None:
    asked = ("where", "--gpu-uuid", "GPU-two")
    assert "where it is now" in ek(*asked, "--at", "2026-11-26").err
    assert "where it is now" not in ek(*asked).err


def test_what_was_long_ago_is_marked_stale(ek: Ek, site: Site, engine: Engine) -> None:
    found = inventory("gpu-1", [on_disk(engine.digest)])
    join(site.bench.registry.catalogue, found, now=datetime.now(UTC) - timedelta(hours=3))
    said = ek("where")
    assert "3h STALE" in said.out
    assert "1 of these nodes were not heard lately" in said.err


def test_what_a_channel_resolves_to_is_found(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, H100)
    site.bench.registry.set_channel("prod", engine.digest, H100, actor="anna")
    join(site.bench.registry.catalogue, inventory("gpu-1", [on_disk(engine.digest)]))
    assert nodes(ek("where", "--channel", "prod", "--json")) == ["gpu-1"]
    assert nodes(ek("where", "--channel", "prod", "--model", "other", "--json")) == []


def test_it_is_known_what_was_where_at_a_time(ek: Ek, site: Site, engine: Engine) -> None:
    then = datetime.now(UTC) - timedelta(hours=2)
    before = inventory("gpu-1", [on_disk(UNKNOWN)])
    join(site.bench.registry.catalogue, before, now=then)
    join(site.bench.registry.catalogue, replace(before, engines=(on_disk(engine.digest),)))
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    (was,) = ek("where", "--at", hour_ago, "--json").json
    (now,) = ek("where", "--json").json
    assert (was["engine"], now["engine"]) == (str(UNKNOWN), str(engine.digest))
    assert was["until"] is not None
    assert ek("where", "--at", "2020-01-01", "--json").json == []


def test_without_a_fleet_it_shows_this_node(ek: Ek, site: Site) -> None:
    assert site.bench.registry.engines() == []
    assert "this node:" in ek("where").err


@pytest.mark.usefixtures("fleet")
def test_this_node_is_shown_where_it_is_asked_for(ek: Ek) -> None:
    assert "this node:" in ek("where", "--here").err
    assert ek("where", "--here", "--node", "gpu-1").code == ExitCode.USAGE


@pytest.mark.parametrize(
    "options", [("--engine", "x'; --"), ("--driver", "new"), ("--cuda", "a"), ("--engine", "abc")]
)
def test_what_cannot_be_asked_is_refused(ek: Ek, site: Site, options: tuple[str, str]) -> None:
    join(site.bench.registry.catalogue, inventory("gpu-1"))
    assert ek("where", *options).code == ExitCode.INVALID_INPUT


@pytest.mark.usefixtures("fleet")
def test_whom_a_quarantine_would_touch_is_asked_of_the_fleet(ek: Ek, engine: Engine) -> None:
    said = ek("engine", "quarantine", engine.digest, "--reason", "x", "--dry-run", "--json")
    assert said.json["placements"] == ["gpu-1: /engines/m"]


def test_a_wave_is_planned_over_the_enrolled_nodes(ek: Ek, site: Site, engine: Engine) -> None:
    found = [inventory(f"gpu-{at}", [on_disk(engine.digest)]) for at in (1, 2)]
    join(site.bench.registry.catalogue, *found, inventory("spare-1"))
    ek("node", "enroll", "gpu-7")
    said = ek("wave", "plan", "--driver", "595.71.05", "--json")
    assert said.code == ExitCode.DRIFT
    assert said.json["ready"] == ["spare-1"]
    held = {tuple(one["nodes"]): one["reasons"] for one in said.json["held"]}
    assert list(held) == [("gpu-1", "gpu-2"), ("gpu-7",)]
    assert held["gpu-7",] == ["enrolled, and it has not reported yet"]


def test_a_node_that_is_silent_for_a_day_is_held(ek: Ek, site: Site) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=2)
    join(site.bench.registry.catalogue, inventory("gpu-1"), now=long_ago)
    said = ek("wave", "plan", "--driver", "595.71.05", "--json")
    assert said.json["held"] == [
        {"nodes": ["gpu-1"], "reasons": ["not heard for more than 24 hours"]}
    ]


def test_a_wave_without_any_node_says_what_to_do(ek: Ek, site: Site) -> None:
    assert site.bench.registry.engines() == []
    said = ek("wave", "plan", "--driver", "595.71.05")
    assert (said.code, "node enroll" in said.err) == (ExitCode.NOT_FOUND, True)


def test_what_was_pruned_is_not_answered_by_half(ek: Ek, site: Site) -> None:
    now = datetime.now(UTC)
    for days, engine in ((200, "a"), (150, "b"), (100, "c")):
        found = inventory("gpu-1", [on_disk(digest_bytes(engine.encode()))])
        join(site.bench.registry.catalogue, found, now=now - timedelta(days=days))

    def at(days: int) -> str:
        return (now - timedelta(days=days)).isoformat()

    assert ek("db", "prune", "--older-than", "120").code == ExitCode.USAGE
    said = ek("db", "prune", "--older-than", "120", "--dry-run", "--json")
    assert (said.json["placements"], said.json["profiles"], said.json["changed"]) == (1, 0, False)
    assert len(nodes(ek("where", "--at", at(160), "--json"))) == 1

    said = ek("db", "prune", "--older-than", "120", "--yes", "--json")
    assert (said.code, said.json["placements"], said.json["changed"]) == (0, 1, True)
    gone = ek("where", "--at", at(160))
    assert gone.code == ExitCode.NOT_FOUND
    assert said.json["before"][:10] in gone.err
    assert len(nodes(ek("where", "--at", at(119), "--json"))) == 1
    assert nodes(ek("where", "--json")) == ["gpu-1"]
    assert "nothing is that old" in ek("db", "prune", "--older-than", "120").err
    assert "fleet prune" in ek("audit", "log").out
