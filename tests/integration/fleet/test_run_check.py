"""`run-check` as a process on a node whose NVML answers: what starts, what does not, what is said.

SIMULATED: the GPU is the C stand-in.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.bundles import write_directory
from registry.evidence import EVIDENCE
from registry.exchange import evidence_of
from registry.signing import TRUST_FILE
from registry.trust_file import change_trust
from registry.types import Engine, Result
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.fakes import inference_server
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

Environ = dict[str, str]


def on_r595(nvml: SimulatedNvml, gpu: SimulatedGpu | None = None) -> None:
    """Another driver, as after an update at night."""
    nvml.set(gpu or SimulatedGpu(), driver="595.71.05", cuda=13020)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, host=None)


@pytest.fixture
def engine(site: Site, tmp_path: Path, nvml: SimulatedNvml) -> Engine:
    """An engine for H100 that passed under R580, on a node that has one."""
    nvml.set(SimulatedGpu())
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


@pytest.fixture
def place(site: Site, engine: Engine, tmp_path: Path) -> Path:
    """The engine with its evidence, as `engine export` writes it."""
    registry = site.bench.registry
    write_directory(registry.store, evidence_of(registry, engine), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def node(environment: Environ, site: Site, engine: Engine, tmp_path: Path) -> Environ:
    """A node without a registry: a home of its own that trusts the keys that signed the engine."""
    assert site.bench.registry.verdicts(engine.digest)
    home = tmp_path / "node"
    (home / "keys").mkdir(parents=True)
    shutil.copy(site.bench.keys / TRUST_FILE, home / "keys")
    return {**environment, "ENGINEKEEPER_HOME": str(home)}


def test_a_qualified_engine_may_run_by_the_evidence_beside_it_alone(
    node: Environ, place: Path, engine: Engine
) -> None:
    code, said, _ = ek(node, "run-check", place)
    assert (code, said["engine"], said["decision"]["rule"]) == (0, str(engine.digest), "qualified")
    assert (said["source"], said["directory"]) == ("evidence", str(place / "engine"))
    assert "no registry" in said["registry_said_nothing"]
    assert ek(node, "run-check", place / "engine")[0] == 0
    assert not Path(node["ENGINEKEEPER_HOME"], "catalogue.sqlite").exists()


def test_another_driver_closes_it_offline_as_the_registry_does(
    node: Environ, environment: Environ, place: Path, nvml: SimulatedNvml
) -> None:
    on_r595(nvml)
    for environ, source in ((node, "evidence"), (environment, "registry")):
        code, said, _ = ek(environ, "run-check", place)
        assert (code, said["decision"]["rule"]) == (5, "not-qualified-here")
        assert said["source"] == source


@pytest.mark.parametrize(
    ("result", "code"), [(Result.FAIL, 5), (Result.INCONCLUSIVE, 6), (Result.PASS, 0)]
)
def test_the_latest_verdict_counts(
    site: Site, node: Environ, tmp_path: Path, result: Result, code: int
) -> None:
    (engine,) = site.bench.registry.engines()
    site.judge(engine, variants_of(tmp_path)[0], result, H100)
    registry = site.bench.registry
    write_directory(registry.store, evidence_of(registry, engine), tmp_path / "later")
    assert ek(node, "run-check", tmp_path / "later")[0] == code


def test_a_rule_refuses_what_cannot_work(node: Environ, place: Path, nvml: SimulatedNvml) -> None:
    nvml.set(SimulatedGpu(name="NVIDIA L4", capability="8 9"))
    code, said, _ = ek(node, "run-check", place)
    assert (code, said["decision"]["rule"]) == (8, "incompatible")


def test_changed_bytes_are_not_started(node: Environ, place: Path) -> None:
    (file,) = (path for path in (place / "engine").iterdir() if path.is_file())
    file.chmod(0o644)
    file.write_bytes(b"other")
    code, _, said = ek(node, "run-check", place)
    assert (code, json.loads(said)["error"]) == (11, "IntegrityError")


def test_evidence_that_nobody_trusted_signed_starts_nothing(node: Environ, place: Path) -> None:
    Path(node["ENGINEKEEPER_HOME"], "keys", TRUST_FILE).write_text('{"schema": 2, "keys": []}')
    assert ek(node, "run-check", place)[0] == 11


def test_a_verdict_that_was_changed_is_not_left_out(node: Environ, place: Path) -> None:
    evidence = json.loads((place / EVIDENCE).read_text())
    evidence["verdicts"].append({**evidence["verdicts"][0], "envelope": "{}"})
    (place / EVIDENCE).write_text(json.dumps(evidence))
    assert ek(node, "run-check", place)[0] == 11


def test_a_revocation_beside_the_engine_closes_it(
    node: Environ, environment: Environ, site: Site, engine: Engine, tmp_path: Path
) -> None:
    assert (
        ek(environment, "engine", "revoke", engine.digest.short, "--reason", "leaks", "--yes")[0]
        == 0
    )
    registry = site.bench.registry
    write_directory(registry.store, evidence_of(registry, engine), tmp_path / "revoked")
    keys = Path(node["ENGINEKEEPER_HOME"], "keys", TRUST_FILE)
    shutil.copy(site.bench.keys / TRUST_FILE, keys)
    code, said, _ = ek(node, "run-check", tmp_path / "revoked")
    assert (code, said["decision"]["rule"]) == (5, "revoked")


def test_a_quarantine_is_known_where_the_registry_answers(
    environment: Environ, engine: Engine, place: Path
) -> None:
    ek(environment, "engine", "quarantine", engine.digest.short, "--reason", "slow", "--yes")
    code, said, _ = ek(environment, "run-check", place)
    assert (code, said["decision"]["rule"]) == (5, "quarantined")
    code, said, _ = ek(environment, "run-check", place, "--offline")
    assert (code, said["source"]) == (0, "evidence")


def test_a_trust_that_asks_for_a_snapshot_gets_the_one_that_was_kept(
    environment: Environ, node: Environ, site: Site, engine: Engine, tmp_path: Path
) -> None:
    registry = site.bench.registry
    root = tmp_path / "into" / "engines" / "x"
    root.parent.mkdir(parents=True)
    write_directory(registry.store, evidence_of(registry, engine), root)
    for arguments in (("key", "create", "keeper"), ("key", "trust", "keeper")):
        ek(environment, *arguments)
    assert ek(environment, "snapshot", "publish")[0] == 0
    keys = Path(node["ENGINEKEEPER_HOME"], "keys", TRUST_FILE)
    shutil.copy(site.bench.keys / TRUST_FILE, keys)
    change_trust(keys, lambda trust: replace(trust, snapshot_required=True))

    code, said, _ = ek(node, "run-check", root)
    assert (code, said["decision"]["rule"]) == (5, "stale-snapshot")

    kept = site.bench.registry.store.get_document("snapshot/current.dsse.json")
    (tmp_path / "into" / "snapshot.dsse.json").write_bytes(kept)
    assert ek(node, "run-check", root)[0] == 0
    kept_file = tmp_path / "into" / "snapshot.dsse.json"
    kept_file.write_bytes(kept.replace(b'"sig"', b'"gis"'))
    assert ek(node, "run-check", root)[0] == 5


def test_an_engine_that_was_fetched_without_evidence_needs_the_registry(
    environment: Environ, engine: Engine, tmp_path: Path
) -> None:
    ek(environment, "engine", "fetch", engine.digest.short, "--to", tmp_path / "fetched")
    code, said, _ = ek(environment, "run-check", tmp_path / "fetched")
    assert (code, said["source"]) == (0, "registry")
    assert ek(environment, "run-check", tmp_path / "fetched", "--offline")[0] == 10
    environment["ENGINEKEEPER_CATALOGUE"] = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    assert ek(environment, "run-check", tmp_path / "fetched")[0] == 10


def test_what_nothing_is_known_of_is_not_started(environment: Environ, tmp_path: Path) -> None:
    assert ek(environment, "run-check", tmp_path)[0] == 4
    assert ek(environment, "run-check", tmp_path / "nothing")[0] == 4
    assert ek(environment, "run-check")[0] == 2


@contextmanager
def started(environ: Environ, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "enginekeeper", "run-check", *map(str, arguments)], env=environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


SAY = "import os, sys; print(os.getpid(), os.environ['ENGINEKEEPER_ENGINE_DIR'], sys.argv[1], flush=True); input()"  # noqa: E501


def test_the_command_takes_its_place_and_nvml_confirms_it(
    node: Environ, place: Path, engine: Engine, nvml: SimulatedNvml
) -> None:
    command = (sys.executable, "-c", SAY, "--model={engine}")
    with started(node, place, "--", *command) as process:
        assert process.stdout is not None
        pid, told, model = process.stdout.readline().split()
        files = str(place / "engine")
        assert (int(pid), told, model) == (process.pid, files, f"--model={files}")

        (declared,) = ek(node, "agent", "once")[1]["running"]
        assert (declared["engine"], declared["pid"]) == (str(engine.digest), process.pid)
        assert (declared["evidence"], declared["devices"]) == ("declared", [])

        on_r595(nvml, SimulatedGpu(processes=((process.pid, 1000),)))
        (confirmed,) = ek(node, "agent", "once")[1]["running"]
        assert (confirmed["evidence"], confirmed["devices"]) == ("confirmed", [SimulatedGpu.uuid])
        assert process.poll() is None  # what serves goes on

    assert ek(node, "agent", "once")[1]["running"] == []


@pytest.mark.parametrize(
    ("kind", "paths", "names_its_directory"),
    [
        ("vllm", ("", "/v1/models"), True),
        ("trtllm-serve", ("", "/v1/models"), False),
        ("triton", ("/v2/models/tensorrt_llm", "/v2/models/tensorrt_llm/config"), True),
    ],
)
def test_each_server_is_asked_what_it_serves(
    node: Environ, place: Path, engine: Engine, kind: str, paths: tuple[str, str],
    *, names_its_directory: bool,
) -> None:  # fmt: skip
    below, asked = paths
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = (sys.executable, inference_server.__file__, kind, port, "{engine}")
    environ = {**node, "ENGINEKEEPER_CONTAINER_IMAGE": f"registry.example/{kind}@sha256:{'a' * 64}"}
    with started(environ, place, "--endpoint", f"{url}{below}", "--", *server):
        running = answering(node)
    assert running["image"] == environ["ENGINEKEEPER_CONTAINER_IMAGE"]
    assert running["engine"] == str(engine.digest)
    assert running["says"] == {
        "source": f"{url}{asked}", "models": ["tensorrt_llm" if kind == "triton" else "llama"],
        "places": [str(place / "engine")] if names_its_directory else [],
        "agrees": True if names_its_directory else None, "problem": None,
    }  # fmt: skip


def answering(node: Environ) -> dict[str, Any]:
    """Returns the engine that runs, once its server answers."""
    for _ in range(50):
        found: list[dict[str, Any]] = ek(node, "agent", "once")[1]["running"]
        if found and found[0]["says"]["problem"] is None:
            return found[0]
        time.sleep(0.2)
    raise AssertionError("its server never answered")


def test_a_closed_gate_starts_nothing_and_leaves_no_record(
    node: Environ, place: Path, nvml: SimulatedNvml, tmp_path: Path
) -> None:
    on_r595(nvml)
    with started(node, place, "--", "touch", tmp_path / "ran") as process:
        _, said = process.communicate()
    assert (process.returncode, "not-qualified-here" in said) == (5, True)
    assert not (tmp_path / "ran").exists()
    assert list(Path(node["ENGINEKEEPER_HOME"]).glob("runs/*.json")) == []


def test_a_command_that_is_not_there_leaves_no_record(node: Environ, place: Path) -> None:
    with started(node, place, "--", "no-such-program") as process:
        _, said = process.communicate()
    assert (process.returncode, "cannot be started" in said) == (3, True)
    assert list(Path(node["ENGINEKEEPER_HOME"]).glob("runs/*.json")) == []


def test_a_simulated_engine_starts_only_on_a_node_that_is_enrolled_as_simulated(
    site: Site, environment: Environ, tmp_path: Path, nvml: SimulatedNvml
) -> None:
    nvml.set(SimulatedGpu())
    engine = publish_for_gpu(site, variants_of(tmp_path)[0], H100, simulated=True)
    registry = site.bench.registry
    write_directory(registry.store, evidence_of(registry, engine), tmp_path / "simulated")
    named = {**environment, "ENGINEKEEPER_NODE": "sim-1"}

    def rule(*options: str, environ: Environ = named) -> tuple[int, str]:
        code, said, _ = ek(environ, "run-check", tmp_path / "simulated", *options)
        return code, said["decision"]["rule"]

    closed = (5, "simulated-on-real-node")
    assert rule() == closed
    assert ek(environment, "node", "enroll", "real-1")[0] == 0
    assert rule(environ={**environment, "ENGINEKEEPER_NODE": "real-1"}) == closed
    assert ek(environment, "node", "enroll", "sim-1", "--simulated")[0] == 0
    assert rule() == (0, "qualified")
    assert rule("--offline") == closed  # nobody says there how the node is enrolled
    assert ek(named, "gate", engine.digest.short)[0] == 0
    assert ek(named, "pull", engine.digest.short, "--into", tmp_path / "pulled")[0] == 0
    assert ek(environment, "node", "retire", "sim-1", "--yes")[0] == 0
    assert rule() == closed
