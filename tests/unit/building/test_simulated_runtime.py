"""Engines of the double give back the checkpoint they were built from, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.simulated.build import main
from enginekeeper.building.simulated.fleet import gpu_of_uuid, simulated_gpus
from enginekeeper.building.simulated.plan_file import (
    NoSimulatedPlanError,
    read_plan,
    sha256_of,
)
from enginekeeper.building.simulated.runtime import load_engine
from enginekeeper.building.simulated.smi import QUESTION, answer
from enginekeeper.errors import InputError
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.validation.tensor_files import TensorFile
from enginekeeper.validation.twin import write_checkpoint_twin
from tests.factories.checkpoints import SOURCE, edit_config, edit_tensor, exported
from tests.factories.trtllm_checkpoints import checkpoint_config

H100, H200 = gpu_products()["h100-sxm"], gpu_products()["h200-sxm"]
SCALE = "transformer.layers.0.attention.qkv.weights_scaling_factor"
NORM = "transformer.layers.1.post_layernorm.weight"
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Returns an engine of the double, built on a simulated H100."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-SIMULATED-h100-sxm")

    def of(checkpoint: Path, *words: str) -> Path:
        arguments = [f"--checkpoint_dir={checkpoint}", "--output_dir=engine", *words]
        main("1.2.1", tmp_path / "nothing-told", arguments)
        return tmp_path / "engine"

    return of


@pytest.mark.parametrize("export", ["fp8", "w4a16_awq_tp2"])
def test_an_engine_gives_back_the_checkpoint_it_was_built_from(
    export: str, build: Build, tmp_path: Path
) -> None:
    checkpoint = exported(export, tmp_path / "in")
    loaded = load_engine(build(checkpoint), H100.product)

    loaded.unpack(tmp_path / "out")

    for original in checkpoint.glob("rank*.safetensors"):
        assert sha256_of(original) == sha256_of(tmp_path / "out" / original.name)
    known = json.loads((checkpoint / "config.json").read_text())
    known.pop("rank", None)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == known


def test_per_module_recipes_go_with_the_engine(build: Build, tmp_path: Path) -> None:
    checkpoint = exported("none", tmp_path / "in")
    without = load_engine(build(checkpoint), H100.product).described()
    (tmp_path / "engine" / "quant_cfg.json").write_text("{}")

    loaded = load_engine(tmp_path / "engine", H100.product)

    assert loaded.described() != without
    loaded.unpack(tmp_path / "out")
    assert (tmp_path / "out" / "quant_cfg.json").read_text() == "{}"


def test_engines_of_one_checkpoint_for_two_gpus_compute_the_same(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = exported("fp8", tmp_path / "in")
    first = load_engine(build(checkpoint), H100.product).described()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-SIMULATED-h200-sxm")

    assert load_engine(build(checkpoint), H200.product).described() == first


def test_an_engine_does_not_run_on_another_gpu(build: Build, tmp_path: Path) -> None:
    engine = build(exported("fp8", tmp_path / "in"))

    with pytest.raises(InputError, match="built on another GPU"):
        load_engine(engine, H200.product)


def test_a_stripped_engine_does_not_run(build: Build, tmp_path: Path) -> None:
    engine = build(exported("fp8", tmp_path / "in"), "--strip_plan")

    weights = (tmp_path / "in" / "fp8" / "rank0.safetensors").stat().st_size
    assert (engine / "rank0.engine").stat().st_size < weights / 10
    with pytest.raises(InputError, match="has no weights"):
        load_engine(engine, H100.product)


def test_damaged_weights_are_not_given_back(build: Build, tmp_path: Path) -> None:
    engine = build(exported("fp8", tmp_path / "in"))
    with (engine / "rank0.engine").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))

    with pytest.raises(InputError, match="not those it was built from"):
        load_engine(engine, H100.product).unpack(tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ftrt" + bytes(100),
        b"vtrt" + bytes(20) + b"\x0a\x0e\x01\x30SIMULATED: no kernels\n" + bytes(8),
        b"ftrt" + bytes(24) + b"SIMULATED: no kernels\n" + (2).to_bytes(8, "little") + b"{}",
        b"ftrt" + bytes(24) + b"SIMULATED: no kernels\n" + b"\xff" * 8,
    ],
)
def test_what_the_double_did_not_write_is_no_plan(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rank0.engine").write_bytes(content)

    with pytest.raises(NoSimulatedPlanError):
        read_plan(tmp_path / "rank0.engine")


def test_an_engine_that_does_not_say_that_it_is_simulated_is_not_run(tmp_path: Path) -> None:
    config = {"version": "1.2.1", "pretrained_config": checkpoint_config()}
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(InputError, match="not an engine of the double"):
        load_engine(tmp_path, H100.product)


def test_the_fleet_has_eight_of_every_product_and_nvidia_smi_lists_them() -> None:
    rows = [line.split(", ") for line in answer(QUESTION).splitlines()]

    assert [row[2] for row in rows[::8]] == [one.product for one in gpu_products().values()]
    assert [gpu_of_uuid(row[1]) for row in rows] == [one.product for one in simulated_gpus()]
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows)
    for unknown in ("h100-sxm", *(f"GPU-SIMULATED-h100-sxm.{end}" for end in ("8", "x", "01", ""))):
        assert gpu_of_uuid(unknown) is None
    with pytest.raises(SystemExit, match="SIMULATED"):
        answer(["--list-gpus"])


def _runs(engine: Path, place: Path) -> tuple[dict[str, Any], TensorFile]:
    """Returns what the executor is given of an engine: a config and weights it multiplies with."""
    load_engine(engine, H100.product).unpack(place / "checkpoint")
    write_checkpoint_twin(SOURCE, place / "checkpoint", place / "twin")
    config = json.loads((place / "twin" / "config.json").read_text())
    return config, TensorFile.open(place / "twin" / "model.safetensors")


@pytest.mark.parametrize(
    ("fault", "shows"),
    [
        (lambda at: edit_config(at, rotary_base=None), "rope"),
        (lambda at: edit_config(at, norm_epsilon=0.1), "rms_norm_eps"),
        (lambda at: edit_tensor(at, SCALE, lambda scale: scale * 1.5), "weights"),
        (lambda at: edit_tensor(at, NORM, lambda norm: norm * 2), "weights"),
    ],
)
def test_a_wrong_checkpoint_is_as_wrong_in_what_its_engine_runs(
    fault: Callable[[Path], object], shows: str, build: Build, tmp_path: Path
) -> None:
    checkpoint = exported("w8a16", tmp_path / "in")
    right, weights = _runs(build(checkpoint), tmp_path / "right")
    fault(checkpoint)

    wrong, others = _runs(build(checkpoint), tmp_path / "wrong")

    differing = [
        name for name in weights if weights[name].read().tobytes() != others[name].read().tobytes()
    ]
    if shows == "weights":
        assert (wrong, bool(differing)) == (right, True)
    else:
        assert differing == []
        assert [name for name in right if shows in name and right[name] != wrong[name]]


def test_an_engine_of_two_ranks_runs_as_the_one_model_that_it_is(
    build: Build, tmp_path: Path
) -> None:
    for name in ("w4a16_awq", "w4a16_awq_tp2"):
        checkpoint = exported(name, tmp_path / "in")
        config, weights = _runs(build(checkpoint), tmp_path / name)
        assert weights["model.layers.0.self_attn.q_proj.weight"].shape == (64, 64)
        assert config["num_attention_heads"] == 4
        shutil.rmtree(tmp_path / "engine")
