"""A wave from end to end on one machine: agents, documents, plan, judgement, plan again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enginekeeper.orchestration.placing import record
from registry.types import Result
from tests.factories.benches import make_site, variants_of
from tests.factories.gpu_engines import H100, publish_for_gpu
from tests.fakes.shell import ek
from tests.fakes.simulated_nvml import SimulatedGpu, SimulatedNvml

ON_R595 = replace(H100, driver="595.71.05", cuda_driver="13.2")
WAVE = ("wave", "plan", "--driver", "595.71.05", "--inventory")


def test_a_wave_is_held_until_its_engine_is_judged_on_the_new_driver(
    nvml: SimulatedNvml, environment: dict[str, str], tmp_path: Path
) -> None:
    site = make_site(tmp_path, host=None)
    (variant,) = variants_of(tmp_path)
    engine = publish_for_gpu(site, variant, H100)
    place = tmp_path / "engine"
    site.bench.registry.fetch_engine(engine.digest, place)
    record(site.bench, engine.digest, place)
    fleet = tmp_path / "fleet"
    fleet.mkdir()

    nodes = {
        "gpu-1": [SimulatedGpu()],
        "gpu-2": [SimulatedGpu(), SimulatedGpu(uuid="GPU-2", lost=79)],
    }
    for name, gpus in nodes.items():
        nvml.set(*gpus)
        arguments = ("--node", name, "--output", fleet / f"{name}.json")
        assert ek(environment, "agent", "once", *arguments)[0] == 0

    code, plan, _ = ek(environment, *WAVE, fleet)
    assert (code, plan["simulated"], plan["ready"]) == (7, True, [])
    assert [group["action"] for group in plan["groups"]] == ["revalidate"]
    assert sorted(name for held in plan["held"] for name in held["nodes"]) == sorted(nodes)

    site.judge(engine, variant, Result.PASS, ON_R595)  # as a drained node would
    code, plan, _ = ek(environment, *WAVE, fleet)
    (held,) = plan["held"]
    assert (code, plan["ready"], held["nodes"]) == (7, ["gpu-1"], ["gpu-2"])
    assert held["reasons"] == ["GPU 1: GPU is lost"]

    (place / "graph.pt2").chmod(0o644)
    (place / "graph.pt2").write_bytes(b"other")
    nvml.set(SimulatedGpu())
    ek(environment, "agent", "once", "--node", "gpu-1", "--output", fleet / "gpu-1.json")
    code, plan, _ = ek(environment, *WAVE, fleet, "--nodes", "gpu-1")
    assert (code, plan["ready"]) == (7, [])
    assert "CHANGED" in plan["held"][0]["reasons"][0]
