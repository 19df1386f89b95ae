"""What an engine directory is held against; the directories are the double's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.engine_directory import Difference, Expected, inspect_engine
from enginekeeper.building.simulated.build import main
from enginekeeper.building.trtllm_command import arguments
from enginekeeper.errors import InputError
from tests.factories.trtllm_checkpoints import checkpoint_config

EXPECTED = Expected(version="1.2.1", tensorrt="10.14.1", requested={"max_batch_size": 4})
Build = Callable[..., tuple[Path, Path]]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Returns an engine of the double and its checkpoint."""
    monkeypatch.chdir(tmp_path)

    def of(model: dict[str, Any] | None = None, /, **requested: Any) -> tuple[Path, Path]:  # noqa: ANN401 - options
        checkpoint, engine = tmp_path / "checkpoint", tmp_path / "engine"
        checkpoint.mkdir()
        config = model or checkpoint_config()
        (checkpoint / "config.json").write_text(json.dumps(config))
        for rank in range(config["mapping"]["world_size"]):
            (checkpoint / f"rank{rank}.safetensors").touch()
        words = arguments(
            "1.2.1",
            {**requested, "checkpoint_dir": str(checkpoint), "output_dir": str(engine)},
        )
        main("1.2.1", tmp_path / "double.json", list(words))
        return engine, checkpoint

    return of


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_whole_engine_is_reported_and_stays_marked_as_simulated(build: Build) -> None:
    report = inspect_engine(*build(max_batch_size=4), EXPECTED)

    assert (report.ranks, report.tensorrt) == (1, "10.14.1.48")
    assert (report.differences, report.warnings) == ((), ())
    assert report.simulated


def test_what_came_out_otherwise_than_asked_is_reported(build: Build) -> None:
    asked: dict[str, Any] = {
        "reduce_fusion": True,
        "use_fp8_context_fmha": True,
        "gemm_plugin": "auto",
    }

    report = inspect_engine(*build(**asked), replace(EXPECTED, requested=asked))

    assert report.differences == (
        Difference("reduce_fusion", True, False),  # noqa: FBT003 - a value
        Difference("use_fp8_context_fmha", True, False),  # noqa: FBT003 - a value
    )


def test_draft_tokens_lengthen_the_sequence(build: Build) -> None:
    asked = {"max_seq_len": 256, "max_draft_len": 8}

    report = inspect_engine(*build(**asked), replace(EXPECTED, requested=asked))

    assert report.differences == (Difference("max_seq_len", 256, 264),)


def test_options_that_are_kept_elsewhere_or_spelled_otherwise_are_no_difference(
    build: Build,
) -> None:
    asked: dict[str, Any] = {
        "strip_plan": True, "kv_cache_type": "paged", "gemm_swiglu_plugin": "disable",
        "context_fmha": True, "tokens_per_block": 32,
    }  # fmt: skip

    report = inspect_engine(*build(**asked), replace(EXPECTED, requested=asked))

    assert report.differences == ()


def test_an_option_of_which_the_engine_says_nothing_is_told(build: Build) -> None:
    asked: dict[str, Any] = {"max_batch_size": 4, "max_lora_rank": 8, "fast_build": True}
    engine, checkpoint = build(**asked)
    _edit(engine / "config.json", lambda it: it["build_config"].pop("lora_config"))
    _edit(
        engine / "config.json", lambda it: it["build_config"]["plugin_config"].pop("manage_weights")
    )

    (warning,) = inspect_engine(engine, checkpoint, replace(EXPECTED, requested=asked)).warnings

    assert warning == "config.json does not say what became of max_lora_rank, fast_build"


def test_what_the_double_writes_as_the_release_does_is_found(build: Build) -> None:
    asked: dict[str, Any] = {
        "max_lora_rank": 8, "fast_build": True, "logits_dtype": "float32",
        "speculative_decoding_mode": "eagle",
    }  # fmt: skip

    report = inspect_engine(*build(**asked), replace(EXPECTED, requested=asked))

    assert report.differences == (Difference("max_lora_rank", 8, 64),)  # no lora_plugin
    assert report.warnings == ()


@pytest.mark.parametrize("per_node", [4, 8])
def test_gpus_of_a_node_are_the_builds_and_not_the_models(per_node: int, build: Build) -> None:
    mapping = {"world_size": 1, "tp_size": 1, "pp_size": 1, "gpus_per_node": per_node}
    engine, checkpoint = build(checkpoint_config(mapping=mapping), max_batch_size=4)
    _edit(
        engine / "config.json",
        lambda it: it["pretrained_config"]["mapping"].update(gpus_per_node=8),
    )

    assert inspect_engine(engine, checkpoint, EXPECTED).differences == ()


def test_an_engine_of_several_formats_keeps_two_fields_of_its_quantization(build: Build) -> None:
    quantization = {
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": "FP8",
        "group_size": 128,
    }
    engine, checkpoint = build(checkpoint_config(quantization=quantization), max_batch_size=4)
    kept = {name: quantization[name] for name in ("quant_algo", "kv_cache_quant_algo")}
    _edit(engine / "config.json", lambda it: it["pretrained_config"].update(quantization=kept))

    assert inspect_engine(engine, checkpoint, EXPECTED).differences == ()

    kept["kv_cache_quant_algo"] = "INT8"
    _edit(engine / "config.json", lambda it: it["pretrained_config"].update(quantization=kept))
    with pytest.raises(InputError, match="kv_cache_quant_algo"):
        inspect_engine(engine, checkpoint, EXPECTED)


@pytest.mark.parametrize(
    ("kept", "effective"), [(4, None), (1, 1), ("MEDUSA", None), (512, 512)], ids=str
)
def test_how_drafts_come_about_is_kept_as_a_number(
    kept: object, effective: object, build: Build
) -> None:
    engine, checkpoint = build()
    _edit(
        engine / "config.json", lambda it: it["build_config"].update(speculative_decoding_mode=kept)
    )
    asked = replace(EXPECTED, requested={"speculative_decoding_mode": "medusa"})

    differences = inspect_engine(engine, checkpoint, asked).differences

    assert [one.effective for one in differences] == ([] if effective is None else [effective])


def test_weights_beside_the_plans_are_there_for_every_rank_or_for_none(build: Build) -> None:
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    engine, checkpoint = build(checkpoint_config(mapping=mapping))
    (engine / "rank0_managed_weights.safetensors").write_bytes(b"x")

    with pytest.raises(InputError, match="lacks weights") as caught:
        inspect_engine(engine, checkpoint, EXPECTED)

    assert "rank1_managed_weights.safetensors" in str(caught.value)
    (engine / "rank1_managed_weights.safetensors").write_bytes(b"x")
    assert inspect_engine(engine, checkpoint, EXPECTED).ranks == 2


def test_a_rank_that_is_missing_empty_or_too_many_is_a_fault(build: Build) -> None:
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    engine, checkpoint = build(checkpoint_config(mapping=mapping))
    assert inspect_engine(engine, checkpoint, EXPECTED).ranks == 2

    (engine / "rank2.engine").write_bytes(b"one too many")
    with pytest.raises(InputError, match="ranks"):
        inspect_engine(engine, checkpoint, EXPECTED)
    (engine / "rank2.engine").unlink()
    (engine / "rank1.engine").write_bytes(b"")
    with pytest.raises(InputError, match="ranks"):
        inspect_engine(engine, checkpoint, EXPECTED)


def test_another_release_is_a_fault(build: Build) -> None:
    engine, checkpoint = build()

    with pytest.raises(InputError, match="another release"):
        inspect_engine(engine, checkpoint, replace(EXPECTED, version="1.2.0"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda it: it["pretrained_config"].update(rotary_base=10000.0), "rotary_base"),
        (lambda it: it["pretrained_config"].pop("norm_epsilon"), "norm_epsilon"),
        (
            lambda it: it["pretrained_config"]["quantization"].update(quant_algo="FP8"),
            "quantization.quant_algo",
        ),
        (lambda it: it.pop("pretrained_config"), "producer.name"),
    ],
)
def test_a_model_that_is_not_the_checkpoints_is_a_fault_that_names_the_field(
    change: Callable[[dict[str, Any]], object], field: str, build: Build
) -> None:
    engine, checkpoint = build()
    _edit(engine / "config.json", change)

    with pytest.raises(InputError, match=f"{field}: "):
        inspect_engine(engine, checkpoint, EXPECTED)


def test_what_the_engine_adds_to_the_model_is_no_fault(build: Build) -> None:
    engine, checkpoint = build()
    _edit(engine / "config.json", lambda it: it["pretrained_config"].update(head_size_extra=1))
    _edit(checkpoint / "config.json", lambda it: it.update(rank=0))

    assert inspect_engine(engine, checkpoint, EXPECTED).warnings == ()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"ftrt" + bytes(20) + bytes((10, 13, 3, 9)), "says TensorRT 10.13.3.9"),
        (b"ftrt" + bytes(20) + bytes((10, 14, 10, 0)), "says TensorRT 10.14.10.0"),
        (b"vtrt" + bytes(24), "no header"),
        (b"ftrt", "no header"),
    ],
)
def test_a_plan_of_another_tensorrt_is_a_warning(head: bytes, said: str, build: Build) -> None:
    engine, checkpoint = build()
    (engine / "rank0.engine").write_bytes(head)

    (warning,) = inspect_engine(engine, checkpoint, EXPECTED).warnings

    assert said in warning


@pytest.mark.parametrize("size", [0, True, "2", 4097, None])
def test_a_number_of_ranks_that_is_none_is_a_fault(size: object, build: Build) -> None:
    engine, checkpoint = build()
    _edit(checkpoint / "config.json", lambda it: it["mapping"].update(world_size=size))

    with pytest.raises(InputError, match="world_size"):
        inspect_engine(engine, checkpoint, EXPECTED)
