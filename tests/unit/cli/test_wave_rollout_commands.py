"""`ek wave start` and what follows, as somebody types it at night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory
from tests.factories.waves import NEW, OLD

Ek = Callable[..., Any]
ON_R595 = replace(H100, driver=NEW, cuda_driver="13.2")


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def fleet(tmp_path: Path, engine: Engine) -> Path:
    for name in ("gpu-1", "gpu-2"):
        report(tmp_path, name, engine)
    report(tmp_path, "spare")
    return tmp_path / "fleet"


def report(directory: Path, name: str, *engines: Engine, driver: str = OLD) -> None:
    taken = datetime.now(UTC).isoformat()  # a document counts for a day
    found = inventory(name, [on_disk(one.digest) for one in engines], taken_at=taken)
    assert found.driver is not None
    api = {OLD: "13.0", NEW: "13.2"}[driver]
    said = replace(found, driver=replace(found.driver, version=driver, cuda=api))
    write_inventory(directory / "fleet", said)


def start(ek: Ek, fleet: Path, *more: object) -> Any:  # noqa: ANN401 - what a command said
    return ek(
        "wave", "start", "--driver", NEW, "--inventory", fleet, "--qualify", "spare", "--name", "w",
        "--soak", 0, *more,
    )  # fmt: skip


def test_a_wave_is_rolled_out_from_the_command_line(
    ek: Ek, site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    said = start(ek, fleet, "--json")
    assert (said.code, said.json["stages"]) == (ExitCode.DRIFT, {"held": 2, "released": 1})
    (work,) = said.json["work"]
    assert work["by_hand"] == f"enginekeeper rebuild --engine {engine.digest}"
    assert ek("wave", "check", "gpu-1", "--driver", NEW).code == ExitCode.DRIFT
    assert ek("wave", "check", "spare", "--driver", NEW).code == ExitCode.OK

    report(tmp_path, "spare", driver=NEW)
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    for name in ("gpu-1", "gpu-2"):
        assert ek("wave", "advance", "w").code == ExitCode.DRIFT
        assert ek("wave", "check", name, "--driver", NEW).code == ExitCode.OK
        report(tmp_path, name, engine, driver=NEW)
    done = ek("wave", "advance", "w", "--json")
    assert (done.code, done.json["phase"], done.json["stages"]) == (
        ExitCode.OK,
        "done",
        {"done": 3},
    )
    assert isinstance(done.json["time_to_safe_seconds"], int)
    text = ek("wave", "status", "w")
    assert "time to safe: " in text.err
    (row,) = ek("wave", "list", "--json").json
    assert (row["wave"], row["phase"], row["nodes"]) == ("w", "done", 3)
    log = ek("audit", "log", "--json").json
    assert [one["action"] for one in log if one["action"] == "wave safe"] == ["wave safe"]


def test_a_status_says_where_each_node_is_and_why(ek: Ek, fleet: Path, engine: Engine) -> None:
    start(ek, fleet)
    said = ek("wave", "status", "w")
    assert said.code == ExitCode.DRIFT
    assert f"revalidate engine {engine.digest.short}: not-judged-there" in said.out
    assert "not safe yet" in said.err
    assert "there: enginekeeper rebuild --engine" in said.err


def test_a_dry_run_records_nothing(ek: Ek, fleet: Path, engine: Engine) -> None:
    for name in ("gpu-1", "gpu-2", "spare"):
        write_inventory(fleet, inventory(name, [on_disk(engine.digest)], schema=1))
    said = ek("wave", "start", "--driver", NEW, "--inventory", fleet, "--dry-run")
    assert said.code == ExitCode.DRIFT
    assert f"no node qualifies {H100.product}" in said.err
    assert ek("wave", "list", "--json").json == []


def test_a_script_upgrades_on_0_alone(ek: Ek, fleet: Path) -> None:
    nobody = ek("wave", "check", "gpu-1", "--json")
    assert (nobody.code, nobody.json["wave"]) == (ExitCode.DRIFT, None)
    start(ek, fleet)
    held = ek("wave", "check", "gpu-1", "--json")
    assert (held.code, held.json["stage"]) == (ExitCode.DRIFT, "held")
    assert ek("wave", "check", "spare", "--driver", "600.1").code == ExitCode.DRIFT


def test_what_a_wave_released_is_asked_anew_by_whoever_upgrades(
    ek: Ek, site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    start(ek, fleet)
    report(tmp_path, "spare", driver=NEW)
    variant = variants_of(tmp_path)[0]
    site.judge(engine, variant, Result.PASS, ON_R595)
    ek("wave", "advance", "w")
    assert ek("wave", "check", "gpu-1").code == ExitCode.OK
    site.judge(engine, variant, Result.FAIL, ON_R595)
    assert ek("wave", "check", "gpu-1").code == ExitCode.REFUSED
    (fleet / "gpu-1.json").unlink()
    gone = ek("wave", "check", "gpu-1", "--json")
    assert (gone.code, gone.json["reasons"]) == (ExitCode.DRIFT, ["is not seen any more"])


def test_a_wave_that_ended_releases_nothing(
    ek: Ek, site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    start(ek, fleet)
    variant = variants_of(tmp_path)[0]
    site.judge(engine, variant, Result.PASS, ON_R595)
    for name in ("gpu-1", "gpu-2", "spare"):
        report(tmp_path, name, engine, driver=NEW)
    ek("wave", "advance", "w")
    assert ek("wave", "advance", "w", "--json").json["phase"] == "done"
    assert ek("wave", "check", "gpu-1", "--driver", NEW).code == ExitCode.OK  # it has it already

    nobody = ek("wave", "check", "gpu-1", "--json")  # to which driver is not said
    assert (nobody.code, nobody.json["wave"]) == (ExitCode.DRIFT, None)

    report(tmp_path, "gpu-1", engine)
    back = ek("wave", "check", "gpu-1", "--driver", NEW, "--json")
    assert (back.code, back.json["reasons"]) == (ExitCode.DRIFT, [f"has driver {OLD} now"])
    site.judge(engine, variant, Result.FAIL, ON_R595)
    assert ek("wave", "check", "gpu-2", "--driver", NEW).code == ExitCode.REFUSED


def test_a_wave_is_aborted_and_turned_back_with_a_reason(
    ek: Ek, fleet: Path, tmp_path: Path
) -> None:
    start(ek, fleet)
    asked = ek("wave", "abort", "w", "--reason", "slow")
    assert (asked.code, "Nothing was changed" in asked.err) == (ExitCode.USAGE, True)
    assert ek("wave", "abort", "w", "--reason", "slow", "--dry-run").code == ExitCode.DRIFT
    report(tmp_path, "spare", driver=NEW)
    ended = ek("wave", "abort", "w", "--reason", "slow", "--yes", "--json")
    assert (ended.code, ended.json["phase"], ended.json["reason"]) == (
        ExitCode.OK,
        "aborted",
        "slow",
    )
    assert ended.json["waiting_seconds"] is None
    assert "it ended before every node had proven engines" in ek("wave", "status", "w").err
    back = ek("wave", "rollback", "w", "--reason", "slower", "--yes", "--json")
    assert (back.code, back.json["stages"]) == (ExitCode.DRIFT, {"held": 2, "reverting": 1})
    assert ek("wave", "check", "spare", "--json").json["driver"] == OLD
    report(tmp_path, "spare")
    assert ek("wave", "advance", "w", "--json").json["phase"] == "rolled-back"


def test_what_fails_there_exits_5_and_says_which(
    ek: Ek, site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    start(ek, fleet)
    site.judge(engine, variants_of(tmp_path)[0], Result.FAIL, ON_R595)
    said = ek("wave", "advance", "w")
    assert said.code == ExitCode.FAIL
    assert f"failed under driver {NEW}" in said.err
    assert ek("wave", "check", "gpu-1").code == ExitCode.REFUSED
    assert ek("wave", "resume", "w").code == ExitCode.FAIL


def test_the_labels_for_the_gpu_operator_are_printed_and_not_set(ek: Ek, fleet: Path) -> None:
    start(ek, fleet)
    said = ek("wave", "hooks", "w")
    assert said.out.splitlines() == [
        "kubectl label nodes gpu-1 gpu-2 nvidia.com/gpu-driver-upgrade.skip=true --overwrite",
        "kubectl label nodes spare nvidia.com/gpu-driver-upgrade.skip- --overwrite",
    ]


def test_a_driver_that_is_there_already_is_found(
    ek: Ek, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    assert ek("wave", "react", "--inventory", fleet).code == ExitCode.OK
    report(tmp_path, "gpu-2", engine, driver=NEW)
    said = ek("wave", "react", "--inventory", fleet, "--json")
    assert said.code == ExitCode.DRIFT
    assert [one["node"] for one in said.json["unqualified"]] == ["gpu-2"]
    (name,) = said.json["waves"]
    found = ek("wave", "status", name, "--json").json
    assert (found["origin"], found["stages"]) == ("found", {"upgraded": 1})
    assert ek("wave", "check", found["nodes"][0]["node"]).code == ExitCode.DRIFT


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--max-unavailable", "0"), ExitCode.INVALID_INPUT, "not a budget"),
        (("--name", "../x"), ExitCode.INVALID_INPUT, "not usable as a name"),
        (("--webhook", "file:///etc/passwd"), ExitCode.INVALID_INPUT, "address of a webhook"),
        (("--webhook", "https://host/"), ExitCode.INVALID_INPUT, "needs a secret"),
        (("--qualify", "gpu-9"), ExitCode.NOT_FOUND, "not among the nodes"),
        (("--skip", "*"), ExitCode.NOT_FOUND, "no node with a GPU is left"),
    ],
)
def test_what_cannot_begin_says_why_and_records_nothing(
    ek: Ek, fleet: Path, more: tuple[str, ...], code: ExitCode, said: str
) -> None:
    found = start(ek, fleet, *more)
    assert (found.code, said in found.err) == (code, True)
    assert ek("wave", "list", "--json").json == []


def test_a_node_is_in_one_wave_at_a_time(ek: Ek, fleet: Path) -> None:
    start(ek, fleet)
    again = ek("wave", "start", "--driver", NEW, "--inventory", fleet, "--name", "other")
    assert (again.code, "in a wave that goes on" in again.err) == (ExitCode.UNAVAILABLE, True)


@pytest.mark.usefixtures("site")
def test_a_wave_that_is_none_exits_4(ek: Ek) -> None:
    for command in ("status", "advance", "hooks", "resume", "run"):
        assert ek("wave", command, "absent").code == ExitCode.NOT_FOUND


def test_the_least_busy_node_goes_first(
    ek: Ek, site: Site, engine: Engine, fleet: Path, tmp_path: Path
) -> None:
    file = tmp_path / "traffic.json"
    file.write_text('{"gpu-1": 90, "gpu-2": 3}')
    assert start(ek, fleet, "--traffic", file).code == ExitCode.DRIFT
    report(tmp_path, "spare", driver=NEW)
    site.judge(engine, variants_of(tmp_path)[0], Result.PASS, ON_R595)
    said = ek("wave", "advance", "w", "--json")
    stages = {one["node"]: one["stage"] for one in said.json["nodes"]}
    assert (stages["gpu-1"], stages["gpu-2"]) == ("held", "released")
    assert [one["node"] for one in said.json["nodes"]] == ["gpu-2", "gpu-1", "spare"]
