"""Repairs are proposed from files, written to a copy, whole or not at all, and on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.validation.repair import (
    RECORD,
    Repair,
    UnrepairableCheckpointError,
    apply_repairs,
    propose_repairs,
)
from enginekeeper.validation.tensor_files import MalformedTensorsError
from registry.digests import digest_file
from registry.errors import DiskFullError

SOURCE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}
CONFIG: dict[str, Any] = {
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "architecture": "LlamaForCausalLM",
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    "quantization": {"quant_algo": "W4A16_AWQ", "group_size": 64, "pre_quant_scale": True},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with both of ModelOpt's faults."""
    directory = tmp_path / "exported"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=4))
    tensors = {"transformer.layers.0.attention.qkv.weight": np.ones((4, 8), np.int8)}
    save_file(tensors, directory / "rank0.safetensors")
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: str(digest_file(path)) for path in sorted(directory.iterdir())}


def test_both_known_faults_of_the_export_are_proposed(checkpoint: Path) -> None:
    repairs = propose_repairs(SOURCE, checkpoint)
    assert [repair.rule for repair in repairs] == ["rotary-base", "promised-prequant"]


def test_the_text_decoder_of_a_multimodal_source_is_what_counts(checkpoint: Path) -> None:
    source = {"text_config": SOURCE, "rope_theta": 1.0}
    assert propose_repairs(source, checkpoint)[0].now == 100000.0


def test_a_source_that_states_nothing_proves_nothing(checkpoint: Path) -> None:
    assert [r.rule for r in propose_repairs({}, checkpoint)] == ["promised-prequant"]


def test_a_scale_on_any_rank_keeps_the_promise(checkpoint: Path) -> None:
    tensors = {"transformer.layers.0.mlp.proj.prequant_scaling_factor": np.ones(8, np.float32)}
    save_file(tensors, checkpoint / "rank1.safetensors")
    assert [r.rule for r in propose_repairs(SOURCE, checkpoint)] == ["rotary-base"]


def test_the_copy_differs_in_the_repaired_fields_only(checkpoint: Path, tmp_path: Path) -> None:
    before = contents(checkpoint)
    output = tmp_path / "repaired"
    apply_repairs(checkpoint, output, propose_repairs(SOURCE, checkpoint))
    config = json.loads((output / "config.json").read_text())
    block = {**CONFIG["quantization"], "pre_quant_scale": False}
    assert config == {**CONFIG, "quantization": block, "rotary_base": 100000.0}
    assert list(config)[: len(CONFIG)] == list(CONFIG)
    assert contents(output)["rank0.safetensors"] == before["rank0.safetensors"]
    assert contents(checkpoint) == before


def test_what_was_repaired_is_on_record_beside_the_config(checkpoint: Path, tmp_path: Path) -> None:
    repairs = propose_repairs(SOURCE, checkpoint)
    apply_repairs(checkpoint, tmp_path / "repaired", repairs)
    record = json.loads((tmp_path / "repaired" / RECORD).read_text())
    assert record["config_before"] == contents(checkpoint)["config.json"]
    assert record["repairs"][0] == {
        "rule": "rotary-base",
        "field": "config.json: rotary_base",
        "was": None,
        "now": 100000.0,
        "reason": "rotary_base is missing, so TensorRT-LLM takes 10000; the source states 100000",
        "source": "source config.json: rope_parameters.rope_theta",
    }


def test_a_repaired_checkpoint_needs_no_further_repair(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "repaired"
    apply_repairs(checkpoint, output, propose_repairs(SOURCE, checkpoint))
    assert propose_repairs(SOURCE, output) == ()


def test_the_same_repairs_give_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    repairs = propose_repairs(SOURCE, checkpoint)
    apply_repairs(checkpoint, tmp_path / "one", repairs)
    apply_repairs(checkpoint, tmp_path / "two", repairs)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_repair_keeps_the_record_of_the_first(checkpoint: Path, tmp_path: Path) -> None:
    first, second = propose_repairs(SOURCE, checkpoint)
    apply_repairs(checkpoint, tmp_path / "one", [first])
    apply_repairs(tmp_path / "one", tmp_path / "two", [second])
    record = json.loads((tmp_path / "two" / RECORD).read_text())
    assert [entry["rule"] for entry in record["repairs"]] == [first.rule, second.rule]


def test_a_checkpoint_is_never_repaired_in_place(checkpoint: Path) -> None:
    repairs = propose_repairs(SOURCE, checkpoint)
    with pytest.raises(UnrepairableCheckpointError, match="never repaired in place"):
        apply_repairs(checkpoint, checkpoint, repairs)


@pytest.mark.parametrize(
    "repair",
    [
        Repair("rotary-base", "config.json: rotary_base", 10000.0, 1e5, "", ""),
        Repair("x", "config.json: quantization.deep.er", None, 1, "", ""),
        Repair("x", "config.json: architecture.name", None, 1, "", ""),
    ],
    ids=["another-value", "no-such-block", "not-a-block"],
)
def test_a_proposal_for_another_state_is_refused_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, repair: Repair
) -> None:
    with pytest.raises(UnrepairableCheckpointError, match="changed since"):
        apply_repairs(checkpoint, tmp_path / "repaired", [repair])
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_nothing_to_repair_is_an_error_not_a_silent_copy(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnrepairableCheckpointError, match="nothing to repair"):
        apply_repairs(checkpoint, tmp_path / "repaired", ())


def test_a_link_inside_the_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "rank1.safetensors").symlink_to(checkpoint / "rank0.safetensors")
    repairs = propose_repairs(SOURCE, checkpoint)
    with pytest.raises(UnrepairableCheckpointError, match="plain files"):
        apply_repairs(checkpoint, tmp_path / "repaired", repairs)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_a_full_disk_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("enginekeeper.validation.repair.json.dump", full)
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        apply_repairs(checkpoint, tmp_path / "repaired", propose_repairs(SOURCE, checkpoint))
    assert caught.value.where == str(tmp_path / "repaired")
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_a_place_that_may_not_be_written_is_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("enginekeeper.validation.repair.json.dump", refuse)
    with pytest.raises(UnrepairableCheckpointError, match="cannot be written"):
        apply_repairs(checkpoint, tmp_path / "repaired", propose_repairs(SOURCE, checkpoint))


def test_without_hard_links_the_bytes_are_copied(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("enginekeeper.validation.repair.os.link", refuse)
    apply_repairs(checkpoint, tmp_path / "repaired", propose_repairs(SOURCE, checkpoint))
    name = "rank0.safetensors"
    assert contents(tmp_path / "repaired")[name] == contents(checkpoint)[name]


def test_a_checkpoint_that_cannot_be_read_is_an_input_error(checkpoint: Path) -> None:
    (checkpoint / "rank0.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(MalformedTensorsError):
        propose_repairs(SOURCE, checkpoint)
    (checkpoint / "rank0.safetensors").unlink()
    with pytest.raises(UnrepairableCheckpointError, match="no tensors"):
        propose_repairs(SOURCE, checkpoint)
    (checkpoint / "config.json").write_text("[]")
    with pytest.raises(InputError):
        propose_repairs(SOURCE, checkpoint)
