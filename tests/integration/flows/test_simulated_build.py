"""Whole builds for GPUs on a machine without one: doubles of NVIDIA's programs, all else real.

The steps that need torch are fakes here; the double of `trtllm-build` is the product's own. Nothing
of it says anything of a GPU, and all of it says `simulated`.
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

from enginekeeper.building.simulated.runtime import load_engine
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.doubles import SETTINGS
from enginekeeper.toolchains.installation import installation_of
from registry.attestations import read_material
from registry.blobs.interface import blob_name
from registry.environments import GpuEnvironment
from registry.errors import IntegrityError
from registry.manifests import Manifest
from registry.service import Registry
from registry.transfer import load_manifest
from registry.verification import verify_engine
from tests.fakes.worlds import World, Zygote
from tests.integration.flows.test_interruptions import STATUS, check_chain

WAITING = "in build_trtllm: [11/26/2026-03:00:00] [TRT-LLM] [I] SIMULATED: waiting, as told"
DOUBLE = "simulated-tensorrt-llm-1.2.1"
H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13", "13.0", "580.95.05")
SPEC = f"""\
model: {{name: tiny, repo: tests/tiny, revision: {"a" * 40}}}
targets: [h100-sxm]
recipes: [w8a16]
toolchain: simulated-tensorrt-llm-1.2.1
limits: {{max_batch_size: 1, max_input_len: 16, max_seq_len: 128, max_num_tokens: 128}}
"""


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    return World(tmp_path / "world", plain_zygote, spec=SPEC)


def _tell(world: World, **settings: Any) -> None:  # noqa: ANN401 - what the double reads
    """Tells the double of this world how to behave; told nothing, it builds."""
    toolchain = find_toolchain(DOUBLE)
    place = installation_of(toolchain, lock_of(toolchain, world.settings), world.settings)
    place.python.parent.mkdir(parents=True, exist_ok=True)
    (place.python.parent / SETTINGS).write_text(json.dumps(settings))


def _registry(world: World) -> Registry:
    registry = world.registry()
    assert registry is not None
    return registry


def test_a_build_for_a_gpu_ends_published_and_says_everywhere_that_it_is_simulated(
    world: World,
) -> None:
    ended = world.build("--channel", "simulated")

    (outcome,) = ended.outcomes
    assert (ended.status, outcome["result"], outcome["simulated"]) == (0, "pass", True), ended.err
    assert outcome["channel"] == "simulated: set"
    assert "SIMULATED" in ended.err
    registry = _registry(world)
    (engine,) = registry.engines()
    assert (engine.simulated, engine.key.hard["builder"]) == (True, "simulated")
    (verdict,) = registry.verdicts(engine.digest)
    assert (verdict.simulated, verdict.environment) == (True, H100)
    assert registry.verdict_document(verdict)["simulated"] is True
    manifest = registry.store.get_document(f"{engine.path}/manifest.json")
    assert Manifest.from_bytes(manifest, expected=engine.digest).simulated
    (channel,) = registry.channels()
    assert channel.simulated
    world.check()


def test_what_is_written_and_read_of_it_says_that_it_is_simulated(world: World) -> None:
    world.build()
    (engine,) = _registry(world).engines()

    explained = _ek(world, "engine", "explain", engine.digest).stdout
    said = [
        _ek(world, "engine", *words, engine.digest, "--to", world.root / words[0])
        for words in (("fetch", "--to-inspect"), ("export",))
    ]
    page = world.root / "page.html"
    _ek(world, "report", engine.digest, "--html", page)

    assert explained.splitlines()[1].startswith("SIMULATED: ")
    assert [one.stderr.startswith("SIMULATED: ") for one in said] == [True, True]
    assert "<title>SIMULATED PASS: " in page.read_text()


def test_it_opens_no_gate_but_that_of_a_node_enrolled_as_simulated(world: World) -> None:
    world.build()
    registry = _registry(world)
    (engine,) = registry.engines()

    closed = registry.gate(engine.digest, H100)

    assert (closed.is_open, closed.rule) == (False, "simulated-on-real-node")
    assert registry.gate(engine.digest, H100, simulated_node=True).is_open


def test_a_second_build_does_nothing(world: World) -> None:
    world.build()
    before = world.products()

    again = world.build()

    assert [one["ending"] for one in again.outcomes] == ["reused"], again.err
    assert world.products() == before


def test_a_build_that_fails_names_its_cause_and_publishes_nothing(world: World) -> None:
    _tell(world, fail=["[TRT] [E] Could not find any implementation for node {ForeignNode}"])

    ended = world.build()

    (outcome,) = ended.outcomes
    assert (outcome["ending"], outcome["simulated"]) == ("failed", True)
    assert outcome["error"]["group"] == "no_kernel"
    assert _registry(world).engines() == []
    world.check()


@pytest.mark.parametrize("number", STATUS)
def test_a_tool_that_would_go_on_ends_with_its_build_and_the_next_one_goes_on(
    world: World, number: str
) -> None:
    hold = world.root / "hold"
    hold.touch()
    _tell(world, hold=str(hold))

    ended = world.build(at=WAITING, signal=number, group=True)

    assert (ended.status, len(ended.notes)) == (STATUS[number], 1), ended.err
    assert world.survivors() == []
    world.check()
    before = world.products()
    hold.unlink()
    again = world.build()
    assert again.outcomes[0]["result"] == "pass", again.err
    assert before.items() <= world.products().items()
    assert not any("quantize" in line for line in again.notes)


@pytest.mark.slow
def test_an_interrupted_simulated_build_goes_on_where_it_was(
    plain_zygote: Zygote, tmp_path: Path
) -> None:
    interrupted = check_chain(
        lambda name: World(tmp_path / name, plain_zygote, spec=SPEC),
        ("SIGKILL", "SIGINT", "SIGTERM"),
        everything=False,
    )

    assert any(name.startswith("in build_trtllm") for name in interrupted)


@pytest.fixture
def two_recipes(plain_zygote: Zygote, tmp_path: Path) -> World:
    return World(tmp_path / "world", plain_zygote, spec=SPEC.replace("[w8a16]", "[w8a16, fp8]"))


def test_a_build_starts_with_what_the_one_before_it_measured_on_such_a_gpu(
    two_recipes: World,
) -> None:
    ended = two_recipes.build()

    assert [one["ending"] for one in ended.outcomes] == ["judged", "judged"], ended.err
    registry = _registry(two_recipes)
    latest, first = json.loads(_ek(two_recipes, "timing-caches", "--json").stdout)
    assert (latest["grown_from"], first["grown_from"]) == (first["digest"], None)
    assert (latest["simulated"], latest["fault"]) == (True, None)
    assert latest["key"] == {
        "gpu": H100.product, "compute_capability": "9.0", "tensorrt": "10.14.1.48",
        "cuda_runtime": "13.0", "cuda_driver": "13.0",
    }  # fmt: skip
    younger, older = registry.engines()
    statement = verify_engine(younger, registry.trust)
    assert str(read_material(statement, "timing_cache")) == first["digest"]
    with pytest.raises(IntegrityError, match="no material"):
        read_material(verify_engine(older, registry.trust), "timing_cache")
    assert "0 of 1 ranks found one" in ended.err
    assert "1 of 1 ranks found one" in ended.err


def test_a_cache_that_was_tampered_with_is_not_used_and_the_build_goes_on(
    two_recipes: World,
) -> None:
    two_recipes.build("--only", "*w8a16*")
    registry = _registry(two_recipes)
    with registry.catalogue.read() as view:
        (cache,) = view.timing.caches()
    manifest = load_manifest(registry.store, cache.path, cache.digest)
    blob = two_recipes.root / "home" / "store" / blob_name(manifest.files[0].digest)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[::-1])

    ended = two_recipes.build()

    assert [one["ending"] for one in ended.outcomes] == ["reused", "judged"], ended.err
    assert "a timing cache is not used" in ended.err
    assert "0 of 1 ranks found one" in ended.err


STRIPPED = f"{SPEC}build: {{strip_plan: true}}\n"


@pytest.fixture
def stripped(plain_zygote: Zygote, tmp_path: Path) -> World:
    """A world in which a weight-stripped engine was built and judged."""
    world = World(tmp_path / "world", plain_zygote, spec=STRIPPED)
    ended = world.build()
    assert ended.outcomes[0]["result"] == "pass", ended.err
    return world


def _ek(world: World, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enginekeeper", *map(str, words)],
        env={**os.environ, **world.environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_stripped_engine_is_judged_with_its_weights_and_stored_without(
    stripped: World,
) -> None:
    registry = _registry(stripped)
    (engine,) = registry.engines()
    (verdict,) = registry.verdicts(engine.digest)
    checkpoint = registry.checkpoint(str(engine.checkpoint))

    refit = registry.verdict_document(verdict)["refit"]

    assert engine.size < checkpoint.size / 4
    assert (refit["plan"], refit["weights"]) == (str(engine.digest), str(engine.checkpoint))
    assert refit["made_by"]["step"].startswith("ek-steps-v1:")
    assert refit["engine"] != str(engine.digest)
    stripped.check()


def test_a_node_refits_what_was_judged_and_sees_what_is_saved(stripped: World) -> None:
    (engine,) = _registry(stripped).engines()
    place = stripped.root / "served"

    done = _ek(stripped, "engine", "refit", engine.digest, place, "--json")

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["judged"], said["simulated"]) == (True, True)
    assert said["storage"]["engines"] == 1
    assert said["storage"]["saved"] > 3 * engine.size
    whole = Manifest.of_directory(place, "engine")
    assert str(whole.digest) == said["refitted"]
    load_engine(place, H100.product).unpack(stripped.root / "given-back")


def test_other_weights_are_refused_before_the_tool_is_started(stripped: World) -> None:
    (engine,) = _registry(stripped).engines()
    other = stripped.root / "other"
    _registry(stripped).fetch_checkpoint(str(engine.checkpoint), other)
    weights = other / "rank0.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    place = stripped.root / "served"

    done = _ek(stripped, "engine", "refit", engine.digest, place, "--weights", other)

    assert done.returncode == 11
    assert "not the weights that the engine was built from" in done.stderr
    assert not place.exists()


def test_what_comes_out_otherwise_is_not_what_was_judged(stripped: World) -> None:
    (engine,) = _registry(stripped).engines()
    (product,) = (stripped.root / "cache" / "work" / "refitted").glob("*/product.json")
    with (product.parent / "engine" / "rank0.engine").open("ab") as file:
        file.write(b"another tool")
    changed = _ek(stripped, "engine", "refit", engine.digest, stripped.root / "served")
    assert "not the one that was made" in changed.stderr
    record = json.loads(product.read_text())
    whole = Manifest.of_directory(product.parent / "engine", "engine")
    product.write_text(json.dumps({**record, "digest": str(whole.digest)}))
    place = stripped.root / "served"

    done = _ek(stripped, "engine", "refit", engine.digest, place)

    assert done.returncode == 11, done.stderr
    assert "not the one that was judged" in done.stderr
    assert not place.exists()


def _pull(world: World, *words: object) -> subprocess.CompletedProcess[str]:
    """Pulls on a node that is enrolled as simulated, as whoever has simulated engines must."""
    (engine,) = _registry(world).engines()
    into = world.root / "node"
    return _ek(world, "pull", engine.digest, "--into", into, "--json", *words)


def _enrolled(world: World) -> Path:
    done = _ek(world, "node", "enroll", socket.gethostname(), "--simulated")
    assert done.returncode == 0, done.stderr
    return world.root / "node"


def test_a_pull_puts_the_weights_in_and_what_was_judged_is_started(stripped: World) -> None:
    into = _enrolled(stripped)
    (engine,) = _registry(stripped).engines()
    verdict = _registry(stripped).verdicts(engine.digest)[0]
    judged = _registry(stripped).verdict_document(verdict)["refit"]["engine"]
    coming = json.loads(_pull(stripped, "--dry-run").stdout)["bytes_missing"]
    assert coming > engine.size

    done = _pull(stripped)

    assert done.returncode == 0, done.stderr
    whole = into / "refitted" / engine.digest.short
    assert str(Manifest.of_directory(whole, "engine").digest) == judged
    assert _ek(stripped, "engine", "verify", into / "current").returncode == 0
    checked = _ek(stripped, "run-check", into / "current", "--json")
    assert (checked.returncode, json.loads(checked.stdout)["directory"]) == (0, str(whole))
    before = (whole / "rank0.engine").stat()
    assert _pull(stripped).returncode == 0
    assert (whole / "rank0.engine").stat().st_mtime_ns == before.st_mtime_ns
    load_engine(whole, H100.product).unpack(stripped.root / "given-back")

    with (whole / "rank0.engine").open("ab") as file:
        file.write(b"damaged")
    changed = _ek(stripped, "run-check", into / "current")
    assert (changed.returncode, "not the one that was judged" in changed.stderr) == (11, True)
    assert _pull(stripped).returncode == 0  # it is made again
    assert _ek(stripped, "run-check", into / "current").returncode == 0
    shutil.rmtree(whole)
    assert _ek(stripped, "run-check", into / "current").returncode == 4


def test_a_pull_that_makes_other_bytes_than_were_judged_is_refused(stripped: World) -> None:
    into = _enrolled(stripped)
    (product,) = (stripped.root / "cache" / "work" / "refitted").glob("*/product.json")
    with (product.parent / "engine" / "rank0.engine").open("ab") as file:
        file.write(b"another tool")
    record = json.loads(product.read_text())
    made = Manifest.of_directory(product.parent / "engine", "engine")
    product.write_text(json.dumps({**record, "digest": str(made.digest)}))

    done = _pull(stripped)

    assert (done.returncode, "not the one that was judged" in done.stderr) == (11, True)
    assert not (into / "current").exists()
    assert [one.name for one in (into / "engines").iterdir()] == []
    assert not list(into.glob("refitted/*"))


def test_an_engine_with_its_weights_has_nothing_to_refit(world: World) -> None:
    world.build()
    (engine,) = _registry(world).engines()

    done = _ek(world, "engine", "refit", engine.digest, world.root / "served")

    assert done.returncode == 3
    assert "nothing to refit" in done.stderr


NO_KERNEL = ["[TRT] [E] Could not find any implementation for node {ForeignNode}"]
HOST_MEMORY = ["Killed"]


def test_a_build_that_cannot_work_is_not_tried_again_by_everyone(world: World) -> None:
    _tell(world, fail=NO_KERNEL)
    world.build()
    _tell(world)

    again = world.build()

    (outcome,) = again.outcomes
    assert (again.status, outcome["ending"], outcome["simulated"]) == (8, "refused", True)
    assert "--retry-failed" in outcome["summary"]
    (listed,) = json.loads(_ek(world, "failures", "--json").stdout)
    assert (listed["group"], listed["variant"]) == ("no_kernel", outcome["variant"])
    assert NO_KERNEL[0] in listed["log"]


def test_it_is_tried_again_when_somebody_asks_for_it(world: World) -> None:
    _tell(world, fail=NO_KERNEL)
    world.build()
    _tell(world)

    again = world.build("--retry-failed")

    assert again.outcomes[0]["result"] == "pass", again.err
    assert world.build().outcomes[0]["ending"] == "reused"


def test_a_failure_that_lies_in_the_host_is_tried_again(world: World) -> None:
    _tell(world, fail=HOST_MEMORY, status=137)
    failed = world.build()
    assert failed.outcomes[0]["error"]["group"] == "out_of_host_memory", failed.err
    _tell(world)

    again = world.build()

    assert again.outcomes[0]["result"] == "pass", again.err


def test_a_validation_twin_is_built_scored_and_shown_and_not_published(world: World) -> None:
    ended = world.build("--validation-twin")

    registry = _registry(world)
    (engine,) = registry.engines()
    (verdict,) = registry.verdicts(engine.digest)
    checks = {one["check"]: one for one in registry.verdict_document(verdict)["checks"]}
    assert ended.outcomes[0]["result"] == "pass", ended.err
    assert checks["fidelity.validation_twin"]["result"] == "shown"
    assert "number by number" in checks["fidelity.export"]["note"]
    registry.fetch_engine(engine.digest, world.root / "fetched")
    config = json.loads((world.root / "fetched" / "config.json").read_text())
    assert config["build_config"]["gather_context_logits"] is False
    world.check()


@pytest.mark.parametrize("asked", ["--served", "--triton"])
def test_a_served_engine_without_context_logits_is_judged_and_not_recorded(
    world: World, asked: str
) -> None:
    ended = world.build(asked)

    assert ended.outcomes[0]["ending"] == "judged", ended.err
    (engine,) = _registry(world).engines()
    assert _registry(world).verdicts(engine.digest) == []
