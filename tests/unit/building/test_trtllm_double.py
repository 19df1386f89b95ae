"""The double refuses what the releases refuse, in their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from enginekeeper.building.simulated.build import TENSORRT, main
from enginekeeper.building.simulated.parser import RELEASES
from tests.factories.trtllm_checkpoints import checkpoint_config, quantization


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return _write(tmp_path, checkpoint_config())


def _write(folder: Path, config: dict[str, Any]) -> Path:
    place = folder / "checkpoint"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "rank0.safetensors").touch()
    return place


def _run(checkpoint: Path, *words: str, version: str = "1.2.1", **told: Any) -> None:  # noqa: ANN401 - settings
    settings = checkpoint.parent / "double.json"
    settings.write_text(json.dumps(told))
    main(version, settings, [f"--checkpoint_dir={checkpoint}", *words])


@pytest.mark.parametrize("version", RELEASES)
def test_every_release_writes_an_engine_that_says_it_is_none(
    version: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(checkpoint, "--output_dir=engine", version=version)

    config = json.loads(Path("engine/config.json").read_text())
    plan = Path("engine/rank0.engine").read_bytes()
    assert (config["version"], config["simulated"]) == (version, True)
    assert tuple(plan[24:28]) == TENSORRT[version]
    assert b"SIMULATED" in plan
    name = "TensorRT-LLM" if version.startswith("0.") else "TensorRT LLM"
    assert f"[TensorRT-LLM] {name} version: {version}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--multiple_profiles=enable", "--opt_num_tokens=8"], "multiple_profiles is enabled"),
        (["--gather_context_logits", "--max_draft_len=2"], "Gather context logits"),
        (["--streamingllm=enable"], "StreamingLLM is no longer supported"),
        (["--pp_reduce_scatter=enable"], "only supported in the mixtral model"),
    ],
)
def test_options_that_exclude_each_other_end_in_the_tools_words(
    words: list[str], said: str, checkpoint: Path
) -> None:
    with pytest.raises((RuntimeError, AssertionError), match=said):
        _run(checkpoint, *words)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("W8A16", "INT8/INT4 quantization is not supported on SM>=100"),
        ("W8A8_SQ_PER_CHANNEL", "SmoothQuant is not supported on SM>=100"),
        ("FP8_PER_CHANNEL_PER_TOKEN", "Per-channel or per-token scaling is not supported"),
    ],
)
def test_recipes_without_kernels_on_blackwell_are_refused_there(
    algorithm: str, said: str, checkpoint: Path
) -> None:
    _write(checkpoint.parent, checkpoint_config(quantization=quantization(algorithm)))

    with pytest.raises(NotImplementedError, match=said):
        _run(checkpoint, sm=100)
    _run(checkpoint, sm=90)


def test_a_plugin_without_kernels_on_blackwell_is_refused_there(checkpoint: Path) -> None:
    with pytest.raises(NotImplementedError, match="gemm_swiglu_plugin=fp8 is not supported on SM"):
        _run(checkpoint, "--gemm_swiglu_plugin=fp8", sm=100)
    _run(checkpoint, "--gemm_swiglu_plugin=fp8", sm=90)


def test_a_model_without_a_definition_is_refused(checkpoint: Path) -> None:
    _write(checkpoint.parent, checkpoint_config(architecture="Llama4ForCausalLM"))

    with pytest.raises(KeyError, match=r"^'Llama4ForCausalLM'$"):
        _run(checkpoint)


@pytest.mark.parametrize(
    ("version", "wrong"), [("1.0.0", "Expected one of"), ("1.2.1", "invalid KVCacheType value")]
)
def test_a_word_is_refused_in_the_releases_own_words(
    version: str, wrong: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _run(checkpoint, "--kv_cache_type=paper", version=version)

    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "architecture", "said"),
    [
        ("1.2.0", "LlamaForCausalLM", "StreamingLLM is no longer supported"),
        ("1.0.0", "MistralForCausalLM", "StreamingLLM is only supported in the llama model"),
    ],
)
def test_streamingllm_is_refused_in_the_releases_own_words(
    version: str, architecture: str, said: str, checkpoint: Path
) -> None:
    _write(checkpoint.parent, checkpoint_config(architecture=architecture))

    with pytest.raises(AssertionError, match=said):
        _run(checkpoint, "--streamingllm=enable", version=version)


def test_older_releases_build_a_llama_with_streamingllm(checkpoint: Path) -> None:
    _run(checkpoint, "--streamingllm=enable", "--output_dir=engine", version="1.0.0")

    config = json.loads(Path("engine/config.json").read_text())
    assert config["build_config"]["plugin_config"]["streamingllm"] is True


def test_what_the_tool_writes_into_the_models_config_is_written(checkpoint: Path) -> None:
    words = ("--logits_dtype=float32", "--gpus_per_node=4", "--output_dir=engine")
    _run(checkpoint, *words, version="1.0.0")

    config = json.loads(Path("engine/config.json").read_text())["pretrained_config"]
    assert (config["logits_dtype"], config["mapping"]["gpus_per_node"]) == ("float32", 4)


def test_how_drafts_come_about_is_written_as_the_number_of_its_bit(checkpoint: Path) -> None:
    _run(checkpoint, "--speculative_decoding_mode=eagle", "--output_dir=engine")

    config = json.loads(Path("engine/config.json").read_text())
    assert config["build_config"]["speculative_decoding_mode"] == 32


def test_a_fast_build_keeps_weights_beside_its_plans(checkpoint: Path) -> None:
    save_file({"lm_head.weight": np.zeros((2, 2))}, checkpoint / "rank0.safetensors")

    _run(checkpoint, "--fast_build", "--output_dir=engine")

    config = json.loads(Path("engine/config.json").read_text())
    assert config["build_config"]["plugin_config"]["manage_weights"] is True
    assert set(load_file("engine/rank0_managed_weights.safetensors")) == {"lm_head.weight"}


def test_adapters_without_modules_are_refused_and_their_rank_counts_with_the_plugin_alone(
    checkpoint: Path,
) -> None:
    with pytest.raises(ValueError, match="lora_target_modules is empty"):
        _run(checkpoint, "--lora_plugin=auto", "--max_lora_rank=8")
    _run(checkpoint, "--max_lora_rank=8", "--output_dir=plain")
    words = ("--lora_plugin=auto", "--lora_target_modules", "attn_q")
    _run(checkpoint, "--max_lora_rank=8", "--output_dir=engine", *words)

    ranks = [
        json.loads(Path(place, "config.json").read_text())["build_config"]["lora_config"]
        for place in ("plain", "engine")
    ]
    assert [it["max_lora_rank"] for it in ranks] == [64, 8]
