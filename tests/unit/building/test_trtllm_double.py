"""The double refuses what the releases refuse, in their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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

    with pytest.raises(AssertionError, match="Unsupported model architecture: Llama4ForCausalLM"):
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
