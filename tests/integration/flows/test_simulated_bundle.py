"""Whole builds of bundles for the PyTorch backend: its double, all else real.

The steps that need torch are fakes here; what warms up is the real step, led by the double of the
driver. Nothing of it says anything of a GPU, and all of it says `simulated`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.bundle import options_of
from enginekeeper.serving.commands import Listening, trtllm_serve_bundle
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.doubles import SETTINGS
from enginekeeper.toolchains.installation import installation_of, toolchains_folder
from registry.errors import IntegrityError
from registry.service import Registry
from tests.fakes.worlds import World, Zygote

SPEC = f"""\
model: {{name: tiny, repo: tests/tiny, revision: {"a" * 40}}}
targets: [h100-sxm]
recipes: [fp8]
toolchain: simulated-tensorrt-llm-1.2.1
backend: pytorch
llm_api: {{kv_cache_config: {{free_gpu_memory_fraction: 0.8}}}}
limits: {{max_batch_size: 2, max_input_len: 16, max_seq_len: 128, max_num_tokens: 128}}
"""


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    return World(tmp_path / "world", plain_zygote, spec=SPEC)


def _registry(world: World) -> Registry:
    registry = world.registry()
    assert registry is not None
    return registry


def _ek(world: World, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enginekeeper", *map(str, words)],
        env={**os.environ, **world.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_bundle_ends_published_and_judged_with_its_options_and_caches(world: World) -> None:
    ended = world.build("--channel", "simulated")

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"], outcome["simulated"]) == (0, "pass", True), ended.err
    registry = _registry(world)
    (engine,) = registry.engines()
    hard = engine.key.hard
    assert (hard["builder"], hard["tensorrt_llm"]) == ("simulated_pytorch", "1.2.1")
    assert "tensorrt" not in hard
    (verdict,) = registry.verdicts(engine.digest)
    document = registry.verdict_document(verdict)
    assert (document["simulated"], document["caches"]) == (True, "used")
    assert {"config", "weights", "recipe"} <= {one["check"] for one in document["audits"]}
    registry.fetch_engine(engine.digest, world.root / "fetched")
    options = options_of(world.root / "fetched", "1.2.1")
    assert (options["max_batch_size"], options["kv_cache_config"]) == (
        2, {"free_gpu_memory_fraction": 0.8},
    )  # fmt: skip
    served = trtllm_serve_bundle(world.root / "fetched", engine.key, "{engine}", Listening())
    assert served[-2:] == ["--extra_llm_api_options", "{engine}/llm_api_options.yaml"]
    warmed = json.loads((world.root / "fetched" / "warmup.json").read_text())
    assert (warmed["simulated"], warmed["key"]["driver"]) == (True, "580.95.05")
    assert (world.root / "fetched" / "caches" / "triton" / "QX3K" / "rms_norm.cubin").is_file()
    world.check()


def test_a_second_build_does_nothing_and_other_options_are_another_bundle(world: World) -> None:
    world.build()
    before = world.products()

    again = world.build()
    assert [one["ending"] for one in again.outcomes] == ["reused"], again.err
    assert world.products() == before
    (world.root / "spec.yaml").write_text(SPEC.replace("0.8", "0.7"))
    other = world.build()

    assert [one["ending"] for one in other.outcomes] == ["judged"], other.err
    assert not any("quantize" in note for note in other.notes)
    assert len(_registry(world).engines()) == 2


def test_caches_that_somebody_changed_are_never_written_to_a_node(world: World) -> None:
    world.build()
    registry = _registry(world)
    (engine,) = registry.engines()
    for blob in (world.root / "home" / "store" / "blobs").glob("*/*/*"):
        if blob.read_bytes() == b"FAKE kernel":
            blob.chmod(0o644)
            blob.write_bytes(b"other kernel")

    with pytest.raises(IntegrityError):
        registry.fetch_engine(engine.digest, world.root / "fetched")

    assert not (world.root / "fetched").exists()


@pytest.mark.parametrize("asked", ["--triton", "--validation-twin"])
def test_a_way_to_ask_that_is_for_engines_alone_is_refused(world: World, asked: str) -> None:
    ended = world.build(asked)

    (outcome,) = ended.outcomes
    assert outcome["ending"] == "failed", ended.err
    assert "judged by the LLM API, or by trtllm-serve" in outcome["summary"]


def test_a_bundle_is_asked_in_other_ways_and_each_way_that_it_lacks_is_not_run(
    world: World,
) -> None:
    ended = world.build("--probes")

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"]) == (0, "pass"), ended.err
    registry = _registry(world)
    (engine,) = registry.engines()
    (verdict,) = registry.verdicts(engine.digest)
    checks = registry.verdict_document(verdict)["checks"]
    probes = {one["check"]: one for one in checks if one["check"].startswith("probe.")}
    asked = {name for name, one in probes.items() if one["result"] == "pass"}
    assert asked == {"probe.decode", "probe.batch", "probe.reuse", "probe.stop", "probe.choice"}
    rest = {name: one for name, one in probes.items() if name not in asked}
    assert {one["result"] for one in rest.values()} == {"not run"}
    assert rest["probe.chunk"]["note"] == "the runner offers no chunk"


def test_a_bundle_that_is_asked_as_it_is_served_is_judged_and_not_recorded(world: World) -> None:
    ended = world.build("--served")

    assert ended.outcomes[0]["ending"] == "judged", ended.err
    (engine,) = _registry(world).engines()
    assert _registry(world).verdicts(engine.digest) == []


def test_a_release_before_1_0_is_refused_in_the_plan(world: World) -> None:
    (world.root / "spec.yaml").write_text(SPEC.replace("1.2.1", "0.21.0"))

    planned = _ek(world, "plan", world.root / "spec.yaml", "--json")

    (row,) = json.loads(planned.stdout)
    assert (row["action"], row["rule"]) == ("refuse", "release-has-pytorch-backend")


def test_a_bundle_of_two_gpus_is_warmed_up_on_both_and_served_on_both(world: World) -> None:
    both = SPEC.replace("backend:", "parallel: [{tensor: 1}, {tensor: 2}]\nbackend:")
    (world.root / "spec.yaml").write_text(both)

    ended = world.build()

    assert [one["result"] for one in ended.outcomes] == ["pass", "pass"], ended.err
    registry = _registry(world)
    engines = {one.key.hard["tensor_parallel"]: one for one in registry.engines()}
    assert engines[1].checkpoint == engines[2].checkpoint is not None
    two = engines[2]
    (verdict,) = registry.verdicts(two.digest)
    assert registry.verdict_document(verdict)["caches"] == "used"
    registry.fetch_engine(two.digest, world.root / "fetched")
    assert options_of(world.root / "fetched", "1.2.1")["tensor_parallel_size"] == 2
    warmed = json.loads((world.root / "fetched" / "warmup.json").read_text())
    assert warmed["caches"]["autotuner"]["ranks"] == [0, 1]
    served = trtllm_serve_bundle(world.root / "fetched", two.key, "{engine}", Listening())
    assert served[served.index("--tp_size") + 1] == "2"


def test_a_bundle_of_awq_is_audited_with_its_folded_norms(world: World) -> None:
    awq = SPEC.replace("[fp8]", "[{recipe: w4a16_awq, group_size: 32}]")
    (world.root / "spec.yaml").write_text(awq)

    ended = world.build()

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"]) == (0, "pass"), ended.err


def test_a_model_as_it_is_is_bundled_from_its_own_bytes(world: World) -> None:
    (world.root / "spec.yaml").write_text(SPEC.replace("[fp8]", "[none]"))

    ended = world.build()

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"]) == (0, "pass"), ended.err
    registry = _registry(world)
    (engine,) = registry.engines()
    registry.fetch_engine(engine.digest, world.root / "fetched")
    assert not (world.root / "fetched" / "hf_quant_config.json").exists()
    (verdict,) = registry.verdicts(engine.digest)
    audits = registry.verdict_document(verdict)["audits"]
    assert {one["check"]: one["result"] for one in audits} == {
        "config": "pass", "weights": "pass", "recipe": "pass",
    }  # fmt: skip


def test_a_release_with_nothing_else_builds_bundles_and_no_engines(world: World) -> None:
    late = SPEC.replace("1.2.1", "1.3.0rc22")
    (world.root / "spec.yaml").write_text(late)

    ended = world.build()

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"]) == (0, "pass"), ended.err
    (engine,) = _registry(world).engines()
    assert engine.key.hard["tensorrt_llm"] == "1.3.0rc22"
    (world.root / "spec.yaml").write_text(late.replace("backend: pytorch\nllm_api", "#"))
    (row,) = json.loads(_ek(world, "plan", world.root / "spec.yaml", "--json").stdout)
    assert (row["action"], row["rule"]) == ("refuse", "release-builds-engines")
    assert "simulated-tensorrt-llm-1.2.1" in json.dumps(row)


def _pulled(world: World) -> Path:
    """Pulls the world's bundle on a node that is enrolled as simulated."""
    (engine,) = _registry(world).engines()
    into = world.root / "node"
    done = _ek(world, "pull", engine.digest, "--into", into, "--json")
    assert done.returncode == 0, done.stderr
    (world.root / "pulled.json").write_text(done.stdout)
    return into


@pytest.fixture
def pulled(world: World) -> Path:
    """A built bundle on a node."""
    world.build()
    assert _ek(world, "node", "enroll", socket.gethostname(), "--simulated").returncode == 0
    return _pulled(world)


def _caches(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.root / "pulled.json").read_text())["caches"]
    return found


SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def _started(world: World, into: Path) -> dict[str, str]:
    """Starts a command through `run-check`, and returns the environment that it was given."""
    done = _ek(world, "run-check", into / "current", "--", sys.executable, "-c", SHOW)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_pull_restores_the_caches_and_each_start_gets_its_own_copy(
    world: World, pulled: Path
) -> None:
    caches = _caches(world)
    kernel = Path(caches["environment"]["TRITON_CACHE_DIR"]) / "QX3K" / "rms_norm.cubin"

    assert (caches["refused"], kernel.read_bytes()) == (None, b"FAKE kernel")
    (found,) = json.loads(_ek(world, "where", "--here", "--json").stdout)
    place = str((pulled / "current").resolve() / "engine")
    assert (found["path"], found["bytes"], found["gate"]) == (place, "verified", "open")
    kernel.write_bytes(b"written by a server")
    started = Path(_started(world, pulled)["TRITON_CACHE_DIR"]) / "QX3K" / "rms_norm.cubin"

    assert (started != kernel, started.read_bytes()) == (True, b"FAKE kernel")
    assert not kernel.exists()  # nobody runs with it
    signed = pulled / "current" / "engine" / "caches" / "triton" / "QX3K" / "rms_norm.cubin"
    assert signed.read_bytes() == b"FAKE kernel"


def test_under_another_driver_the_caches_are_refused_and_the_bundle_is_served_without(
    world: World, pulled: Path
) -> None:
    toolchain = find_toolchain("simulated-tensorrt-llm-1.2.1")
    place = installation_of(toolchain, lock_of(toolchain, world.settings), world.settings)
    (place.python.parent / SETTINGS).write_text(json.dumps({"driver": "590.44.01"}))

    again = _pulled(world)

    assert "driver: 580.95.05, here 590.44.01" in _caches(world)["refused"]
    assert list((again / "caches").glob("*/*")) == []
    assert "TRITON_CACHE_DIR" not in _started(world, pulled)


@pytest.mark.usefixtures("pulled")
def test_without_the_toolchain_nobody_can_tell_and_the_caches_are_refused(world: World) -> None:
    for place in toolchains_folder(world.settings).glob("simulated-*"):
        shutil.rmtree(place)

    _pulled(world)

    assert "nobody can tell" in _caches(world)["refused"]


def test_a_run_under_another_driver_loads_no_caches_and_says_so(world: World) -> None:
    world.build()
    toolchain = find_toolchain("simulated-tensorrt-llm-1.2.1")
    place = installation_of(toolchain, lock_of(toolchain, world.settings), world.settings)
    (place.python.parent / SETTINGS).write_text(json.dumps({"driver": "590.44.01"}))
    shutil.rmtree(world.root / "cache" / "work" / "simulated-scores")

    world.build("--no-audit")

    assert "caches: refused: driver: 580.95.05, here 590.44.01" in _logs(world)


def _logs(world: World) -> str:
    return "".join(path.read_text() for path in (world.root / "home" / "runs").rglob("step.log"))


def test_a_bundle_with_a_cache_that_was_changed_is_not_started(world: World, pulled: Path) -> None:
    signed = pulled / "current" / "engine" / "caches" / "triton" / "QX3K" / "rms_norm.cubin"
    signed.chmod(0o644)
    signed.write_bytes(b"other kernel")

    done = _ek(world, "run-check", pulled / "current", "--", sys.executable, "-c", SHOW)

    assert (done.returncode, done.stdout) == (11, "")
