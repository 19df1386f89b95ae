"""The double of `trtllm-refit` refuses what the release refuses, and trusts what it trusts."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.building.simulated.plan_file import read_plan, sha256_of, tensor_names
from enginekeeper.building.simulated.refit import main
from tests.factories.checkpoints import edit_config, edit_tensor, edit_tensors


def _refit(checkpoint: Path, *words: str) -> None:
    main(
        "1.2.1",
        ["--engine_dir=stripped", f"--checkpoint_dir={checkpoint}", "--output_dir=whole", *words],
    )


def test_a_refitted_engine_is_the_one_that_a_build_with_weights_makes(
    checkpoint: Path, tmp_path: Path
) -> None:
    _refit(checkpoint)

    for rank in (0, 1):
        plan = read_plan(Path(f"whole/rank{rank}.engine"))
        assert not plan.note.stripped
        plan.write_weights(tmp_path / "weights")
        assert sha256_of(tmp_path / "weights") == sha256_of(checkpoint / f"rank{rank}.safetensors")
    assert Path("whole/config.json").read_bytes() == Path("stripped/config.json").read_bytes()


def test_it_takes_other_weights_with_the_same_names_without_a_word(checkpoint: Path) -> None:
    pinned = read_plan(Path("stripped/rank0.engine")).note.weights
    edit_tensor(checkpoint, "transformer.ln_f.weight", lambda array: array * 2)

    _refit(checkpoint)

    assert read_plan(Path("whole/rank0.engine")).note.weights != pinned


def test_a_weight_that_is_missing_is_told_in_the_tools_words(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda arrays: arrays.pop("transformer.ln_f.weight"))

    with pytest.raises(
        RuntimeError, match=r"Missing refittable weights .*transformer\.ln_f\.weight"
    ):
        _refit(checkpoint)


def test_another_architecture_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, architecture="MistralForCausalLM")

    with pytest.raises(RuntimeError, match="Checkpoint Architecture do not match"):
        _refit(checkpoint)


def test_a_folder_that_is_not_there_and_an_unknown_option_are_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="Please supply a valid --checkpoint_dir"):
        _refit(checkpoint / "nowhere")
    with pytest.raises(SystemExit):
        _refit(checkpoint, "--strip_plan")
    assert "unrecognized arguments: --strip_plan" in capsys.readouterr().err


def test_names_of_tensors_are_read_from_a_files_header(checkpoint: Path, tmp_path: Path) -> None:
    assert "lm_head.weight" in tensor_names(checkpoint / "rank0.safetensors")
    (tmp_path / "empty").touch()
    assert tensor_names(tmp_path / "empty") == ()
