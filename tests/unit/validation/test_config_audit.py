"""The config audit: each field that changes the mathematics, stated, missing and wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.errors import InputError
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.windows import source_windows
from tests.factories import checkpoints

LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}
LONGROPE = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "longrope": {**LONGROPE, "original_max_position_embeddings": 64},
}


class Pair:
    """A source and a checkpoint whose configs a test may change."""

    def __init__(self, directory: Path, recipe: str = "w8a16") -> None:
        self.source = checkpoints.source_copy(directory)
        self.checkpoint = checkpoints.exported(recipe, directory)

    def audit(self) -> AuditReport:
        return audit_config(SourceModel.open(self.source), Checkpoint.open(self.checkpoint))

    def only_finding(self) -> Finding:
        (finding,) = self.audit().findings
        return finding

    def source_says(self, **changes: object) -> None:
        checkpoints.edit_config(self.source, **changes)

    def checkpoint_says(self, **changes: object) -> None:
        checkpoints.edit_config(self.checkpoint, **changes)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def old_form(pair: Pair, **changes: object) -> None:
    """Writes the source's rotation as transformers 4 did."""
    pair.source_says(rope_parameters=None, rope_theta=50000.0, **changes)


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_a_repaired_export_has_no_findings(recipe: str, tmp_path: Path) -> None:
    assert Pair(tmp_path, recipe).audit().findings == ()


@pytest.mark.parametrize("recipe", checkpoints.RECIPES)
def test_the_missing_rotary_base_of_a_real_export_is_named(recipe: str) -> None:
    source, checkpoint = checkpoints.SOURCE, checkpoints.EXPORTS / recipe
    report = audit_config(SourceModel.open(source), Checkpoint.open(checkpoint))
    finding = report.findings[0]
    assert (finding.where, finding.result, finding.taxonomy) == ("rotary_base", "fail", "T15")
    assert finding.message == (
        "rotary_base: missing, TensorRT-LLM assumes 10000; source rope_theta 50000"
    )
    assert "rotary_base" in report.examined["assumed_by_tensorrt_llm"]


def test_the_broken_promise_of_a_real_export_is_named() -> None:
    source, checkpoint = checkpoints.SOURCE, checkpoints.EXPORTS / "w4a16"
    findings = audit_config(SourceModel.open(source), Checkpoint.open(checkpoint)).findings
    assert findings[-1].where == "quantization.pre_quant_scale"
    assert "none of the 10 quantized linears" in findings[-1].message


def test_both_forms_of_the_source_rotation_are_read(pair: Pair) -> None:
    old_form(pair)
    assert pair.audit().findings == ()
    pair.checkpoint_says(rotary_base=10000.0)
    assert pair.only_finding().expected == 50000.0


def test_a_missing_base_is_right_where_the_assumption_is(pair: Pair) -> None:
    pair.source_says(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    pair.checkpoint_says(rotary_base=None)
    assert pair.audit().findings == ()


@pytest.mark.parametrize(
    ("field", "wrong", "taxonomy"),
    [
        ("rotary_base", 50500.0, "T15"),
        ("rotary_pct", 0.5, "T15"),
        ("rotary_embedding_dim", 8, "T15"),
        ("norm_epsilon", 1e-6, "T26"),
        ("hidden_act", "gelu", "T26"),
        ("hidden_size", 128, "T26"),
        ("intermediate_size", 96, "T26"),
        ("num_hidden_layers", 1, "T26"),
        ("num_attention_heads", 8, "T26"),
        ("num_key_value_heads", 1, "T14"),
        ("head_size", 32, "T26"),
        ("vocab_size", 90, "T23"),
        ("max_position_embeddings", 128, "T15"),
        ("position_embedding_type", "alibi", "T15"),
        ("attn_bias", True, "T26"),
        ("mlp_bias", True, "T26"),
        ("qk_layernorm", True, "T26"),
        ("residual_mlp", True, "T26"),
        ("q_scaling", 2.0, "T26"),
        ("share_embedding_table", True, "T8"),
        ("sliding_window", 64, "T15"),
        ("architecture", "Qwen2ForCausalLM", "T26"),
    ],
)
def test_a_wrong_field_is_named(field: str, wrong: object, taxonomy: str, pair: Pair) -> None:
    pair.checkpoint_says(**{field: wrong})
    findings = pair.audit().findings
    named = [
        f for f in findings if field.split("_", maxsplit=1)[0] in f.where or field in f.message
    ]
    assert named, findings
    assert named[0].taxonomy == taxonomy


@pytest.mark.parametrize(
    ("field", "assumed"),
    [
        ("norm_epsilon", None),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "learned_absolute"),
        ("num_key_value_heads", "4"),
        ("intermediate_size", "256"),
        ("head_size", None),
        ("vocab_size", "needs it"),
    ],
)
def test_a_missing_field_is_what_is_assumed(field: str, assumed: str | None, pair: Pair) -> None:
    pair.checkpoint_says(**{field: None})
    if assumed is None:
        assert pair.audit().findings == ()
    else:
        assert assumed in pair.only_finding().message


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("old", [True, False])
def test_a_scaling_that_was_dropped_is_named(kind: str, old: bool, pair: Pair) -> None:  # noqa: FBT001
    scaling = {"rope_type": kind, **SCALINGS[kind]}
    if old:
        old_form(pair, rope_scaling=scaling)
    else:
        pair.source_says(rope_parameters={"rope_theta": 50000.0, **scaling})
    finding = pair.only_finding()
    assert (finding.where, finding.taxonomy) == ("rotary_scaling", "T15")
    assert f"source rope_scaling {kind}" in finding.message


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_scaling_that_was_kept_passes(kind: str, pair: Pair) -> None:
    scaling = {"rope_type": kind, **SCALINGS[kind]}
    old_form(pair, rope_scaling=scaling)
    pair.checkpoint_says(rotary_scaling=scaling)
    assert pair.audit().findings == ()


@pytest.mark.parametrize("kind", SCALINGS)
def test_each_parameter_of_a_scaling_is_compared(kind: str, pair: Pair) -> None:
    old_form(pair, rope_scaling={"rope_type": kind, **SCALINGS[kind]})
    for name, value in SCALINGS[kind].items():
        wrong = value[::-1] if isinstance(value, list) else value * 2
        pair.checkpoint_says(rotary_scaling={"type": kind, **SCALINGS[kind], name: wrong})
        wheres = [finding.where for finding in pair.audit().findings]
        assert f"rotary_scaling.{name}" in wheres


def test_yarn_magnitudes_are_compared_as_numbers(pair: Pair) -> None:
    old_form(pair, rope_scaling={"rope_type": "yarn", **YARN, "attention_factor": 1.1386294361})
    pair.checkpoint_says(rotary_scaling={"type": "yarn", **YARN})
    assert pair.audit().findings == ()
    pair.checkpoint_says(rotary_scaling={"type": "yarn", **YARN, "attention_factor": 1.0})
    assert pair.only_finding().where == "rotary_scaling.magnitude"


def test_a_scaling_type_nobody_knows_is_doubt(pair: Pair) -> None:
    old_form(pair, rope_scaling={"rope_type": "spiral", "factor": 2.0})
    pair.checkpoint_says(rotary_scaling={"type": "spiral", "factor": 2.0})
    assert pair.only_finding().result == "inconclusive"


def test_a_field_that_may_matter_is_not_ignored(pair: Pair) -> None:
    pair.source_says(no_rope_layer_interval=4)
    finding = pair.only_finding()
    assert (finding.result, finding.where) == ("inconclusive", "no_rope_layer_interval")


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("final_logit_softcapping", 30.0, True),
        ("final_logit_softcapping", None, False),
        ("embedding_multiplier", 12.0, True),
        ("logits_scaling", 1.0, False),
    ],
)
def test_a_number_of_the_source_that_no_decoder_applies_is_a_fault(
    name: str, value: float | None, *, wrong: bool, pair: Pair
) -> None:
    pair.source_says(**{name: value})
    assert [f.where for f in pair.audit().findings if f.result == "fail"] == [name] * wrong


@pytest.mark.parametrize("neutral", [None, False, 1.0])
def test_a_field_without_effect_is_passed_over(neutral: object, pair: Pair) -> None:
    pair.source_says(residual_multiplier=neutral)
    assert pair.audit().findings == ()


def test_an_architecture_nobody_knows_is_doubt(pair: Pair) -> None:
    pair.source_says(architectures=["MambaForCausalLM"])
    assert pair.audit().result == "inconclusive"


def test_a_window_that_was_dropped_is_named(pair: Pair) -> None:
    pair.source_says(sliding_window=64)
    finding = pair.only_finding()
    assert "attends to everything" in finding.message
    pair.checkpoint_says(runtime_defaults={"max_attention_window": [64]})
    assert pair.audit().findings == ()


@pytest.mark.parametrize(
    "quiet",
    [
        {"sliding_window": 64, "use_sliding_window": False},
        {"sliding_window": 256},
        {"sliding_window": 64, "layer_types": ["full_attention", "full_attention"]},
    ],
)
def test_a_window_without_effect_is_passed_over(quiet: dict[str, object], pair: Pair) -> None:
    pair.source_says(**quiet)
    assert pair.audit().findings == ()


def test_a_mistral_that_does_not_speak_of_its_window_has_one(pair: Pair) -> None:
    pair.source_says(model_type="mistral", max_position_embeddings=8192)
    pair.checkpoint_says(max_position_embeddings=8192)
    finding = pair.only_finding()
    assert finding.check == "config.sliding_window"
    assert "4096" in finding.message


_SIZES = dict.fromkeys(
    ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    4,
)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_a_qwen_has_no_window_unless_it_is_switched_on(model_type: str) -> None:
    config = HfConfig.of({**_SIZES, "model_type": model_type, "sliding_window": 64}, "c.json")
    assert source_windows(config, 4) == [None] * 4


@pytest.mark.parametrize(
    ("stated", "expected"), [({}, [None] * 4), ({"max_window_layers": 2}, [None, None, 64, 64])]
)
def test_a_qwen_has_no_window_in_its_first_layers(
    stated: dict[str, int], expected: list[int | None]
) -> None:
    on = {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}
    config = HfConfig.of({**_SIZES, **on, **stated}, "c.json")
    assert source_windows(config, 4) == expected


def test_the_window_is_compared_layer_by_layer(pair: Pair) -> None:
    pair.source_says(sliding_window=64, layer_types=["sliding_attention", "full_attention"])
    pair.checkpoint_says(runtime_defaults={"max_attention_window": [64]})
    assert pair.only_finding().taxonomy == "T15"
    pair.checkpoint_says(runtime_defaults={"max_attention_window": [64, 256]})
    assert pair.audit().findings == ()


def test_a_bias_the_checkpoint_does_not_announce_is_named(pair: Pair) -> None:
    pair.source_says(attention_bias=True, mlp_bias=True)
    assert [f.where for f in pair.audit().findings] == ["attn_bias", "mlp_bias"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"exclude_modules": ["lm_head", "transformer.layers.0.mlp.proj"]}, "exclude_modules"),
        ({"quant_algo": "FP8"}, "quant_algo"),
        ({"quant_algo": "W3A5"}, "quant_algo"),
        ({"has_zero_point": True}, "has_zero_point"),
        ({"pre_quant_scale": True}, "pre_quant_scale"),
        ({"kv_cache_quant_algo": "FP8"}, "kv_cache_quant_algo"),
        ({"kv_cache_quant_algo": "NVFP4"}, "kv_cache_quant_algo"),
    ],
)
def test_the_quantization_block_must_fit_the_tensors(
    changes: dict[str, object], where: str, pair: Pair
) -> None:
    checkpoints.edit_quantization(pair.checkpoint, **changes)
    wheres = [finding.where for finding in pair.audit().findings]
    assert f"quantization.{where}" in wheres


@pytest.mark.parametrize(
    ("recipe", "said", "stored"),
    [
        ("w8a16", "W8A8_SQ_PER_CHANNEL", "W8A16"),
        ("w8a8_sq", "W8A16", "W8A8_SQ_PER_CHANNEL"),
        ("w4a16_awq", "W4A8_AWQ", "W4A16_AWQ"),
    ],
)
def test_an_algorithm_that_stores_other_tensors_is_named_by_itself(
    recipe: str, said: str, stored: str, tmp_path: Path
) -> None:
    pair = Pair(tmp_path, recipe)
    checkpoints.edit_quantization(pair.checkpoint, quant_algo=said)
    finding = pair.only_finding()
    assert (finding.where, finding.actual) == ("quantization.quant_algo", said)
    assert (finding.expected, finding.taxonomy) == (stored, "T8")


def test_scales_that_no_other_algorithm_lacks_are_no_other_algorithm(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w8a8_sq")
    checkpoints.edit_tensors(
        pair.checkpoint,
        lambda tensors: [tensors.pop(n) for n in list(tensors) if "activation_scal" in n],
    )
    assert "quantization.quant_algo" not in [f.where for f in pair.audit().findings]


def test_a_group_size_that_is_not_the_scales_own_is_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w4a16_awq")
    checkpoints.edit_quantization(pair.checkpoint, group_size=64)
    finding = pair.only_finding()
    assert (finding.where, finding.actual, finding.expected) == ("quantization.group_size", 64, 32)


def test_pre_quant_vectors_that_are_not_announced_are_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w4a16_awq")
    checkpoints.edit_quantization(pair.checkpoint, pre_quant_scale=False)
    assert "would not load" in pair.only_finding().message


def test_cache_scales_that_are_not_announced_are_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w8a8_sq")
    checkpoints.edit_quantization(pair.checkpoint, kv_cache_quant_algo=None)
    assert pair.only_finding().taxonomy == "T10"


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"quant_algo": "W8A16_GPTQ"}, "inconclusive"),
        ({"quant_algo": "W3A5"}, "fail"),
        ({"kv_cache_quant_algo": "NVFP4"}, "inconclusive"),
        ({"kv_cache_quant_algo": "FP8_E5M2"}, "fail"),
    ],
)
def test_a_name_that_tensorrt_llm_lacks_is_a_fault_and_one_unknown_here_a_doubt(
    changes: dict[str, object], result: str, pair: Pair
) -> None:
    checkpoints.edit_quantization(pair.checkpoint, **changes)
    said = [f.result for f in pair.audit().findings if "not known to" in f.message]
    assert said == [result]


def test_a_file_of_one_more_rank_is_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w8a8_sq_tp2")
    shutil.copy(pair.checkpoint / "rank0.safetensors", pair.checkpoint / "rank2.safetensors")
    assert pair.only_finding().where == "rank2.safetensors"


def test_one_lost_cache_scale_is_named_by_its_layer(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w8a8_sq")
    lost = "transformer.layers.1.attention.kv_cache_scaling_factor"
    checkpoints.edit_tensors(
        pair.checkpoint,
        lambda tensors: [
            tensors.pop(lost.replace(".kv_", cache)) for cache in (".kv_", ".k_", ".v_")
        ],
    )
    assert [f.where for f in pair.audit().findings if f.taxonomy == "T10"] == [lost]


def test_ranks_that_cut_a_head_are_named(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "w8a8_sq_tp2")
    pair.source_says(num_attention_heads=3, num_key_value_heads=3, head_dim=16)
    wheres = {f.where for f in pair.audit().findings if f.taxonomy == "T14"}
    assert "mapping.tp_size" in wheres


def test_context_parallel_ranks_are_doubt(pair: Pair) -> None:
    pair.checkpoint_says(mapping={"world_size": 2, "tp_size": 1, "pp_size": 1, "cp_size": 2})
    finding = pair.only_finding()
    assert (finding.where, finding.result) == ("mapping.cp_size", "inconclusive")


def test_a_world_size_that_does_not_add_up_is_named(pair: Pair) -> None:
    pair.checkpoint_says(mapping={"world_size": 2, "tp_size": 1, "pp_size": 1})
    assert pair.only_finding().where == "mapping.world_size"


def test_a_head_that_is_neither_shared_nor_stored_is_named(pair: Pair) -> None:
    checkpoints.edit_tensors(pair.checkpoint, lambda arrays: arrays.pop("lm_head.weight"))
    assert pair.only_finding().where == "share_embedding_table"
    pair.checkpoint_says(share_embedding_table=True)
    assert pair.audit().findings == ()


def test_a_source_without_sizes_is_refused(pair: Pair) -> None:
    pair.source_says(hidden_size=None)
    with pytest.raises(InputError, match="hidden_size is missing"):
        pair.audit()


def test_the_report_is_json(pair: Pair) -> None:
    pair.checkpoint_says(rotary_base=None)
    document = json.loads(json.dumps(pair.audit().as_dict()))
    assert document["result"] == "fail"
    assert document["findings"][0]["class"] == "T15"


@pytest.mark.parametrize(
    ("changes", "where", "result"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping", "inconclusive"),
        ({"something_new": "yes"}, "something_new", "inconclusive"),
        ({"moe": {"num_experts": 8}}, "moe", "inconclusive"),
        ({"dtype": "float16"}, "dtype", "inconclusive"),
    ],
)
def test_a_field_of_the_checkpoint_that_nobody_judges_is_a_doubt(
    changes: dict[str, object], where: str, result: str, pair: Pair
) -> None:
    pair.checkpoint_says(**changes)
    finding = pair.only_finding()
    assert (finding.where, finding.result) == (where, result)


def test_what_a_fine_tuning_tool_says_of_itself_is_no_doubt(pair: Pair) -> None:
    pair.source_says(unsloth_version="2025.9", unsloth_fixed=True)
    assert pair.audit().findings == ()


def test_a_field_of_the_quantization_block_that_nobody_judges_is_a_doubt(pair: Pair) -> None:
    checkpoints.edit_quantization(pair.checkpoint, clamp_val=[-0.1, 0.1])
    finding = pair.only_finding()
    assert (finding.where, finding.result) == ("quantization.clamp_val", "inconclusive")


@pytest.mark.parametrize(
    "changes",
    [
        {"moe": {"num_experts": 0, "top_k": 0, "normalization_mode": 1}},
        {"use_last_layernorm": True, "layer_idx_offset": 0, "fc_after_embed": False},
        {"remove_duplicated_kv_heads": False, "logits_dtype": "float32"},
    ],
)
def test_what_the_converters_of_tensorrt_llm_write_is_no_doubt(
    changes: dict[str, object], pair: Pair
) -> None:
    pair.checkpoint_says(**changes)
    assert pair.audit().findings == ()
