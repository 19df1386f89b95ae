"""The commands on a node whose NVML answers: the agent, `where` and `gate`, as processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.fleet.inventories import read_inventories
from enginekeeper.orchestration.placing import record
from registry.types import Engine
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

Environ = dict[str, str]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, host=None)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine for H100 that passed under R580."""
    return publish_for_gpu(site, variants_of(tmp_path)[0], H100)


def test_the_agent_writes_what_nvml_says(
    nvml: SimulatedNvml, environment: Environ, tmp_path: Path
) -> None:
    nvml.set(SimulatedGpu(), SimulatedGpu(uuid="GPU-2", lost=79), driver="595.71.05", cuda=13020)
    file = tmp_path / "node.json"
    code, said, _ = ek(environment, "agent", "once", "--output", file, "--label", "pool=h100")
    (found,) = read_inventories([file])
    assert (code, said["node"]) == (0, found.node)
    assert found.driver is not None
    assert (found.simulated, found.driver.version, found.driver.cuda) == (True, "595.71.05", "13.2")
    assert [one.product for one in found.devices] == ["NVIDIA H100 80GB HBM3"]
    assert (found.lost[0].index, found.labels) == (1, {"pool": "h100"})


def test_a_document_that_cannot_be_written_exits_10_and_leaves_nothing(
    environment: Environ, tmp_path: Path
) -> None:
    code, _, said = ek(environment, "agent", "once", "--output", tmp_path / "gone" / "n.json")
    assert code == 10
    assert "gone" in said
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("label", ["pool", "=a", "a=", "a=\x1b[2J", "a=" + "x" * 201])
def test_what_is_no_label_exits_3(environment: Environ, label: str) -> None:
    assert ek(environment, "agent", "once", "--label", label)[0] == 3


def test_the_gate_follows_the_driver_of_the_node(
    nvml: SimulatedNvml, environment: Environ, engine: Engine
) -> None:
    nvml.set(SimulatedGpu())
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["rule"]) == (0, "qualified")
    assert decision["environment"] == H100.as_dict()

    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["rule"]) == (5, "not-qualified-here")

    nvml.set(SimulatedGpu(), driver="570.124.06", cuda=12080)
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["rule"]) == (8, "incompatible")
    assert "compatibility rule driver-runs-cuda" in decision["evidence"]


def test_the_gate_is_asked_of_the_gpu_that_the_engine_was_built_for(
    nvml: SimulatedNvml, environment: Environ, engine: Engine
) -> None:
    nvml.set(SimulatedGpu(uuid="GPU-1", name="NVIDIA L4", capability="8 9"), SimulatedGpu())
    assert ek(environment, "gate", engine.digest.short)[0] == 0
    split = SimulatedGpu(mig=1, slices=(("MIG-a", "3g.40gb"),))
    nvml.set(split)
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["environment"]["mig_profile"]) == (8, "3g.40gb")


def test_without_a_gpu_the_gate_is_asked_of_the_cpu(environment: Environ, engine: Engine) -> None:
    environment["LD_LIBRARY_PATH"] = ""
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["environment"]["kind"]) == (8, "cpu")
    assert "compatibility rule wrong-kind" in decision["evidence"]


def test_an_engine_for_the_cpu_meets_the_cpu_of_a_gpu_node(
    nvml: SimulatedNvml, environment: Environ, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant)
    site.judge(engine, variant)
    nvml.set(SimulatedGpu(), errors={"nvmlSystemGetDriverVersion": 999})
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["environment"]["kind"]) == (0, "cpu")


SILENT = [
    (SimulatedGpu(lost=79), {}, "GPU 0: GPU is lost"),
    (SimulatedGpu(mig=1), {}, "split into no slices"),
    (SimulatedGpu(), {"nvmlInitWithFlags": 18}, "NVML does not start"),
    (SimulatedGpu(), {"nvmlSystemGetDriverVersion": 999}, "the driver does not answer"),
]


@pytest.mark.parametrize("silent", SILENT, ids=lambda silent: silent[2])
def test_a_gpu_that_does_not_answer_is_unavailable_and_not_the_cpu(
    nvml: SimulatedNvml,
    environment: Environ,
    engine: Engine,
    silent: tuple[SimulatedGpu, dict[str, int], str],
) -> None:
    gpu, errors, words = silent
    nvml.set(gpu, errors=errors)
    code, _, said = ek(environment, "gate", engine.digest.short)
    assert code == 10
    assert words in json.loads(said)["what"] + str(json.loads(said)["found"])


def test_where_gates_each_engine_where_it_belongs_and_says_what_is_simulated(
    nvml: SimulatedNvml, environment: Environ, site: Site, engine: Engine, tmp_path: Path
) -> None:
    place = tmp_path / "engine"
    site.bench.registry.fetch_engine(engine.digest, place)
    record(site.bench, engine.digest, place)
    nvml.set(SimulatedGpu())
    code, rows, said = ek(environment, "where")
    assert (code, rows[0]["gate"], rows[0]["bytes"]) == (0, "open", "verified")
    assert "SIMULATED, not a real GPU" in said

    code, document, _ = ek(environment, "agent", "once")
    (on_disk,) = document["engines"]
    assert (on_disk["engine"], on_disk["bytes"]) == (str(engine.digest), "verified")

    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    code, rows, _ = ek(environment, "where")
    assert (code, rows[0]["gate"], rows[0]["rule"]) == (0, "closed", "not-qualified-here")


def test_a_channel_takes_an_engine_by_the_gpu_of_the_node(
    nvml: SimulatedNvml, environment: Environ, engine: Engine
) -> None:
    nvml.set(SimulatedGpu())
    code, position, _ = ek(environment, "channel", "set", "prod", engine.digest.short)
    assert (code, position["engine"]) == (0, str(engine.digest))


def test_a_channel_resolves_and_rolls_back_by_the_gpu_of_the_node(
    nvml: SimulatedNvml, environment: Environ, engine: Engine, site: Site, tmp_path: Path
) -> None:
    later = publish_for_gpu(site, variants_of(tmp_path)[0], H100, content=b"later")
    nvml.set(SimulatedGpu())
    for one in (engine, later):
        assert ek(environment, "channel", "set", "prod", one.digest.short)[0] == 0
    code, resolved, _ = ek(environment, "channel", "resolve", "tiny", "prod")
    assert (code, resolved["engine"]) == (0, str(later.digest))

    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    code, resolved, _ = ek(environment, "channel", "resolve", "tiny", "prod")
    assert (code, resolved["decision"]["rule"]) == (5, "not-qualified-here")
    back = ("channel", "rollback", "prod", "--here")
    _, (choice,), _ = ek(environment, *back, "--dry-run")
    assert choice["environment"]["driver"] == "595.71.05"
    code, _, said = ek(environment, *back)
    assert (code, "595.71.05" in said) == (5, True)

    nvml.set(SimulatedGpu(name="NVIDIA L4", capability="8 9"))
    assert ek(environment, "channel", "resolve", "tiny", "prod")[0] == 4


def test_a_waiver_counts_on_the_gpu_of_the_node(
    nvml: SimulatedNvml, environment: Environ, engine: Engine
) -> None:
    assert ek(environment, "key", "create", "approver")[0] == 0
    assert ek(environment, "key", "trust", "approver")[0] == 0
    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    code, said, _ = ek(
        environment, "waiver", "grant", engine.digest.short, "--rule", "not-qualified-here",
        "--reason", "demo", "--until", (datetime.now(UTC) + timedelta(days=2)).isoformat(),
    )  # fmt: skip
    assert (code, "595.71.05" in said["where"]) == (0, True)
    code, decision, _ = ek(environment, "gate", engine.digest.short)
    assert (code, decision["rule"]) == (0, "waived")


def test_a_channel_is_resolved_by_the_gpu_of_the_node(
    nvml: SimulatedNvml, environment: Environ, site: Site, engine: Engine
) -> None:
    site.bench.registry.set_channel("prod", engine.digest, H100, actor="anna")
    nvml.set(SimulatedGpu())
    code, found, _ = ek(environment, "resolve", "tiny", "--channel", "prod")
    assert (code, found["engine"]) == (0, str(engine.digest))

    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    code, found, _ = ek(environment, "channel", "resolve", "tiny", "prod")
    assert (code, found["decision"]["rule"]) == (5, "not-qualified-here")

    nvml.set(SimulatedGpu(name="NVIDIA L4", capability="8 9"))
    assert ek(environment, "resolve", "tiny", "--channel", "prod")[0] == 4


def test_an_engine_is_pulled_and_started_without_its_registry(
    nvml: SimulatedNvml, environment: Environ, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.bench.registry.set_channel("prod", engine.digest, H100, actor="anna")
    nvml.set(SimulatedGpu())
    pulled = ek(environment, "pull", "tiny", "--channel", "prod", "--into", tmp_path / "m")
    assert (pulled[0], pulled[1]["offline"]["rule"]) == (0, "qualified")
    environment["ENGINEKEEPER_CATALOGUE"] = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    code, said, _ = ek(environment, "run-check", tmp_path / "m" / "current")
    assert (code, said["source"]) == (0, "evidence")
    nvml.set(SimulatedGpu(), driver="595.71.05", cuda=13020)
    assert ek(environment, "run-check", "--model", "tiny", "--channel", "prod")[0] == 5


LABELS = (
    "nvidia.com/cuda.driver-version.full=580.95.05\nnvidia.com/cuda.runtime-version.full=13.0\n"
    "nvidia.com/gpu.compute.major=9\nnvidia.com/gpu.compute.minor=0\nnvidia.com/gpu.count=1\n"
    "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3\n"
)


def loads(root: Path) -> Path:
    """Lets a root say, in the place of this machine, which driver its kernel has loaded."""
    file = root / "sys" / "module" / "nvidia" / "version"
    file.parent.mkdir(parents=True)
    file.write_text("580.95.05\n")
    return file


def test_labels_that_others_made_are_taken_and_nvml_is_left_alone(
    nvml: SimulatedNvml, environment: Environ, tmp_path: Path
) -> None:
    nvml.set(SimulatedGpu(), errors={"nvmlInitWithFlags": 18})
    labels = tmp_path / "gfd"
    labels.write_text(LABELS)
    file = tmp_path / "node.json"
    loads(tmp_path)
    gfd = ("agent", "once", "--gfd", labels, "--root", tmp_path)
    code, _, _ = ek(environment, *gfd, "--output", file)
    (found,) = read_inventories([file])
    assert (code, found.problem, found.gpu_source) == (0, None, "gfd")
    assert [one.product for one in found.devices] == [H100.product]
    assert ek(environment, "agent", "once", "--dcgm", "http://127.0.0.1:9400/metrics")[0] == 2

    code, document, _ = ek(environment, *gfd, "--dcgm", "http://127.0.0.1:1/metrics")
    assert (code, document["gpu_source"], document["devices"]) == (0, "gfd+dcgm", [])
    assert "does not answer" in document["problem"]


MACHINE_INFO = (
    "attribute_name,attribute_value\nCUDA Version,13.0\nGPU Driver Version,580.95.05\n"
    "GPU Product,NVIDIA-H100-80GB-HBM3\nGPU Memory,85520809984\nGPU 1 UUID,GPU-1\n"
    "GPU 1 Bus ID,0000:18:00.0\n"
)


def test_what_fleet_intelligence_wrote_is_taken_and_nvml_is_left_alone(
    nvml: SimulatedNvml, environment: Environ, tmp_path: Path
) -> None:
    nvml.set(SimulatedGpu(), errors={"nvmlInitWithFlags": 18})
    written = tmp_path / "fleetint" / "fleetint_machine_info_20261126_160000.csv"
    written.parent.mkdir()
    loaded = loads(tmp_path)
    asked = ("agent", "once", "--fleet-intelligence", written.parent, "--root", tmp_path)
    code, document, _ = ek(environment, *asked)
    assert (code, document["devices"]) == (0, [])
    assert "no machine info" in document["problem"]

    written.write_text(MACHINE_INFO)
    os.utime(written, (time.time() - 60,) * 2)
    code, document, _ = ek(environment, *asked)
    assert (code, document["problem"]) == (0, None)
    assert (document["gpu_source"], document["driver"]["version"]) == (
        "fleet-intelligence", "580.95.05",
    )  # fmt: skip
    (found,) = document["devices"]
    assert (found["uuid"], found["product"], found["mig"]) == ("GPU-1", H100.product, None)
    assert ek(environment, *asked, "--gfd", written)[0] == 2
    loaded.write_text("595.71.05\n")
    assert "loaded another driver" in ek(environment, *asked)[1]["problem"]


def test_an_exporter_is_asked_over_http_for_each_gpu(
    nvml: SimulatedNvml, environment: Environ, tmp_path: Path
) -> None:
    nvml.set(errors={"nvmlInitWithFlags": 18})
    labels = tmp_path / "gfd"
    labels.write_text(LABELS)
    who = (
        'gpu="{0}",UUID="GPU-{0}",pci_bus_id="00000000:0{0}:00.0",device="nvidia{0}",'
        'modelName="NVIDIA H100 80GB HBM3",Hostname="a",DCGM_FI_DRIVER_VERSION="580.95.05"'
    )
    text = "# TYPE DCGM_FI_DEV_XID_ERRORS gauge\n" + "".join(
        f"DCGM_FI_DEV_XID_ERRORS{{{who.format(at)}}} {xid}\n" for at, xid in enumerate((0, 31, 79))
    )
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "metrics").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1",
               "--directory", str(tmp_path / "www"))  # fmt: skip
    loads(tmp_path)
    asked = ("agent", "once", "--gfd", labels, "--dcgm", f"http://127.0.0.1:{port}/metrics",
             "--root", tmp_path)  # fmt: skip
    code: int = -1
    document: dict[str, Any] = {"problem": "not asked"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter:
        try:
            end = time.monotonic() + 30
            code, document, _ = ek(environment, *asked)
            while document["problem"] is not None and time.monotonic() < end:
                time.sleep(0.2)
                code, document, _ = ek(environment, *asked)
        finally:
            exporter.kill()
    assert (code, document["gpu_source"], document["problem"]) == (0, "gfd+dcgm", None)
    assert [(one["uuid"], one["xid"]) for one in document["devices"]] == [
        ("GPU-0", None), ("GPU-1", 31),
    ]  # fmt: skip
    assert [one["index"] for one in document["lost"]] == [2]
