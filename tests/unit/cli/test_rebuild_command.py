"""`ek rebuild`: what a change asks for, what is reused, and what nothing here can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.orchestration import planning, start
from enginekeeper.orchestration.publication import names_of, publish
from registry.keys import EngineKey
from registry.types import Result
from tests.factories.benches import Site, variants_of, write_spec
from tests.factories.checkpoints import SOURCE
from tests.factories.gpu_engines import H100, gpu_key, publish_for_gpu
from tests.factories.inventories import inventory, on_disk, write_inventory
from tests.factories.registry import WEIGHTS

Ek = Callable[..., Any]
ON_H100 = "targets: [h100-sxm]\ntoolchain: tensorrt-llm-1.2.1\n"
ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")


@pytest.fixture(autouse=True)
def source_is_here_and_prefect_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SimpleNamespace(path=SOURCE, digest=WEIGHTS)
    monkeypatch.setattr(planning, "find_source", lambda *_args, **_kwargs: here)

    def load_flow(name: str) -> None:
        raise AssertionError(f"the flow {name} was started")

    monkeypatch.setattr(start, "load_flow", load_flow)


def test_an_engine_that_was_judged_here_is_reused_and_starts_nothing(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant)
    asked = ("rebuild", "--engine", engine.digest.short, "--spec", write_spec(tmp_path))
    (planned,) = ek(*asked, "--dry-run", "--json").json
    assert (planned["action"], planned["rule"]) == ("revalidate", "no-verdict")
    site.judge(engine, variant)

    said = ek(*asked, "--json")

    (outcome,) = said.json
    assert (said.code, outcome["ending"]) == (ExitCode.OK, "reused")
    assert outcome["engine"] == str(engine.digest)
    assert "was judged here; its verdict is pass" in outcome["summary"]


def test_an_engine_is_judged_as_it_is_whatever_its_variant_is_today(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    site.judge(site.publish(variant), variant)  # of today's key
    built = site.built(variant, b"older")
    older = publish(site.bench, replace(built, key=_with(built.key, recipe="older")), variant)
    spec = write_spec(tmp_path)

    (planned,) = ek("rebuild", "--engine", older.digest, "--spec", spec, "--dry-run", "--json").json

    assert (planned["action"], planned["engine"]) == ("revalidate", str(older.digest))


def test_an_engine_that_cannot_run_here_is_refused_with_its_rule(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    built = site.built(variant)
    key = _with(built.key, instruction_set=["of another CPU"])
    other = publish(site.bench, replace(built, key=key), variant)

    said = ek("rebuild", "--engine", other.digest, "--spec", write_spec(tmp_path), "--json")

    assert (said.code, said.json[0]["ending"]) == (ExitCode.REFUSED, "refused")
    assert "a CPU without of another CPU" in said.json[0]["summary"]


def test_a_revoked_engine_is_not_judged_again(ek: Ek, site: Site, tmp_path: Path) -> None:
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant)
    assert ek("engine", "revoke", engine.digest, "--reason", "wrong tokens", "--yes").code == 0

    said = ek("rebuild", "--engine", engine.digest, "--spec", write_spec(tmp_path), "--dry-run")

    assert said.code == ExitCode.REFUSED
    assert "revoked" in said.out
    assert "wrong tokens" in said.err


def test_what_a_driver_asks_of_a_gpu_is_elsewhere_with_the_command_for_there(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (on_cpu,), (variant,) = variants_of(tmp_path), variants_of(tmp_path, more=ON_H100)
    built = site.built(on_cpu, b"plan")
    for_h100 = replace(built, key=gpu_key(built.weights), names=names_of(variant, "tiny"))
    gpu_engine = publish(site.bench, for_h100, on_cpu)
    fleet = write_inventory(tmp_path, inventory("gpu-1", [on_disk(gpu_engine.digest)]))
    spec = write_spec(tmp_path, more=ON_H100)
    asked = ("rebuild", "--driver", "595.71.05", "--inventory", fleet, "--spec", spec)

    said = ek(*asked, "--json")

    (outcome,) = said.json
    assert (said.code, outcome["ending"]) == (ExitCode.DRIFT, "elsewhere")
    there = f"enginekeeper rebuild --engine {gpu_engine.digest} --spec {spec}"
    assert there in outcome["summary"]
    (planned,) = ek(*asked, "--dry-run", "--json").json
    assert (planned["why"], planned["there"]) == (
        "revalidate under driver 595.71.05: not-judged-there", there,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("result", "ended"),
    [(Result.PASS, (ExitCode.OK, "reused")), (Result.FAIL, (ExitCode.REFUSED, "refused"))],
)
def test_what_was_judged_under_the_driver_is_settled_without_a_spec(
    ek: Ek, site: Site, tmp_path: Path, result: Result, ended: tuple[ExitCode, str]
) -> None:
    (variant,) = variants_of(tmp_path)
    engine = publish_for_gpu(site, variant, H100)
    site.judge(engine, variant, result, ON_R595)
    fleet = write_inventory(tmp_path, inventory("gpu-1", [on_disk(engine.digest)]))

    said = ek("rebuild", "--driver", "595.71.05", "--inventory", fleet, "--json")

    (outcome,) = said.json
    assert (said.code, outcome["ending"]) == ended
    assert outcome["engine"] == str(engine.digest)


@pytest.mark.parametrize("change", [("--weights", "tiny"), ("--toolchain", "inductor")])
def test_a_change_of_weights_or_toolchain_is_for_what_was_built_before(
    ek: Ek, site: Site, tmp_path: Path, change: tuple[str, str]
) -> None:
    first, _ = variants_of(tmp_path, "[none, w8a16]")
    engine = site.publish(first)
    site.judge(engine, first)
    site.publish(first, b"another build of the key")
    spec = write_spec(tmp_path, "[none, w8a16]")

    said = ek("rebuild", *change, "--spec", spec, "--json")

    (outcome,) = said.json
    assert (said.code, outcome["variant"]) == (ExitCode.OK, str(first.identifier))
    assert (outcome["ending"], outcome["engine"]) == ("reused", str(engine.digest))


def test_another_change_leaves_all_alone(ek: Ek, site: Site, tmp_path: Path) -> None:
    site.publish(variants_of(tmp_path)[0])
    said = ek("rebuild", "--weights", "other", "--spec", write_spec(tmp_path), "--json")
    assert (said.code, said.json) == (ExitCode.OK, [])


def test_what_no_spec_names_is_refused_and_two_that_do_are_an_error(
    ek: Ek, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = site.publish(variants_of(tmp_path)[0])
    asked = ("rebuild", "--engine", engine.digest)
    said = ek(*asked)
    assert said.code == ExitCode.REFUSED
    assert "no spec names this variant: --spec FILE" in said.err

    (tmp_path / "buildspecs").mkdir()
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / "buildspecs" / name).write_bytes(write_spec(tmp_path).read_bytes())
    said = ek(*asked)
    assert said.code == ExitCode.INVALID_INPUT
    assert "several specs name this variant" in said.err
    (tmp_path / "buildspecs" / "two.yaml").unlink()
    assert ek(*asked, "--dry-run", "--json").json[0]["action"] == "revalidate"


@pytest.mark.usefixtures("site")
def test_no_change_is_a_usage_error_and_a_fleet_of_no_node_is_said(ek: Ek) -> None:
    said = ek("rebuild")
    assert (said.code, "Name a change" in said.err) == (ExitCode.USAGE, True)
    said = ek("rebuild", "--driver", "595.71.05")
    assert (said.code, "--inventory" in said.err) == (ExitCode.NOT_FOUND, True)


@pytest.mark.usefixtures("site")
def test_an_engine_that_is_none_exits_4(ek: Ek, tmp_path: Path) -> None:
    assert ek("rebuild", "--engine", "abcdef", "--spec", tmp_path).code == ExitCode.NOT_FOUND


def _with(key: EngineKey, **fields: object) -> EngineKey:
    return EngineKey({**key.hard, **fields})
