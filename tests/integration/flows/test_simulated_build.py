"""Whole builds for GPUs on a machine without one: doubles of NVIDIA's programs, all else real.

The steps that need torch are fakes here; the double of `trtllm-build` is the product's own. Nothing
of it says anything of a GPU, and all of it says `simulated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from registry.environments import GpuEnvironment
from registry.manifests import Manifest
from registry.service import Registry
from tests.fakes.worlds import World, Zygote

H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "13", "13.0", "580.95.05")
SPEC = f"""\
model: {{name: tiny, repo: tests/tiny, revision: {"a" * 40}}}
targets: [h100-sxm]
recipes: [w8a16]
toolchain: simulated-tensorrt-llm-1.2.1
limits: {{max_batch_size: 1, max_input_len: 16, max_seq_len: 128, max_num_tokens: 128}}
"""
MakeWorld = Callable[..., World]


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Any) -> World:  # noqa: ANN401 - a path
    return World(tmp_path / "world", plain_zygote, spec=SPEC)


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


def test_it_opens_no_gate_but_that_of_a_node_enrolled_as_simulated(world: World) -> None:
    world.build()
    registry = _registry(world)
    (engine,) = registry.engines()

    closed = registry.gate(engine.digest, H100)

    assert (closed.is_open, closed.rule) == (False, "simulated-on-real-node")
    assert registry.gate(engine.digest, H100, simulated_node=True).is_open


def test_a_second_build_does_nothing(world: World) -> None:
    world.build()

    again = world.build()

    assert [one["ending"] for one in again.outcomes] == ["reused"], again.err
    assert again.notes == () or not any("in build_trtllm" in note for note in again.notes)
