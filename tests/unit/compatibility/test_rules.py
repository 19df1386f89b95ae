"""Each rule both ways: it fires where its source says so, and nowhere else."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from enginekeeper.compatibility.check import RULES, check
from enginekeeper.compatibility.facts import Facts, target_facts
from enginekeeper.compatibility.rules import RuleHit, Severity
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.releases import releases
from enginekeeper.specs.variants import Variant


class MakeCase(Protocol):
    def __call__(
        self,
        target: Any,  # noqa: ANN401 - the file's own shape
        recipe: Any,  # noqa: ANN401
        config: Any = None,  # noqa: ANN401
        **fields: Any,  # noqa: ANN401
    ) -> tuple[Variant, Facts]: ...


SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}

OF_EXPERTS = {
    "num_local_experts": 8, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 512, "kv_lora_rank": 512, "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32, "v_head_dim": 64,
}  # fmt: skip
"""What mixtures of experts and latent attention say besides."""


def rules_of(case: tuple[Variant, Facts]) -> list[str]:
    return [hit.rule for hit in check(*case)]


def the_hit(case: tuple[Variant, Facts]) -> RuleHit:
    (hit,) = check(*case)
    return hit


# What each generation computes, as in the TensorRT-LLM documents the rules cite.
AMPERE = {"none", "w8a16", "w8a8_sq", "w4a16", "w4a16_awq"}
ADA_HOPPER = AMPERE | {"fp8", "fp8_per_channel_per_token", "w4a8_awq"}
BLACKWELL = {"none", "fp8", "nvfp4"}
BLACKWELL_RTX = AMPERE | {"fp8", "nvfp4"}
WORKS = {
    "8.0": AMPERE,
    "8.6": AMPERE,
    "8.9": ADA_HOPPER,
    "9.0": ADA_HOPPER,
    "10.0": BLACKWELL,
    "10.3": BLACKWELL,
    "12.0": BLACKWELL_RTX,
    "12.1": BLACKWELL_RTX,
}
RECIPES = sorted(ADA_HOPPER | {"nvfp4"})
SMALL = {"max_batch_size": 1}


@pytest.mark.parametrize("gpu", list(gpu_products()))
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_refused_exactly_where_it_has_no_kernels(
    gpu: str, recipe: str, make_case: MakeCase
) -> None:
    case = make_case(gpu, recipe, limits=SMALL)

    works = recipe in WORKS[str(gpu_products()[gpu].compute_capability)]

    refusals = [hit for hit in check(*case) if hit.severity is not Severity.WARN]
    assert (refusals == []) is works


@pytest.mark.parametrize(
    ("gpu", "recipe", "rules"),
    [
        ("a100-sxm-80gb", "fp8", ["fp8-needs-8.9"]),
        ("a40", "fp8_per_channel_per_token", ["fp8-needs-8.9"]),
        ("h100-sxm", "nvfp4", ["nvfp4-needs-10.0"]),
        ("a100-sxm-80gb", "w4a8_awq", ["w4a8-needs-8.9-or-9.0"]),
        ("b200", "w4a8_awq", ["w4a8-needs-8.9-or-9.0", "int-weights-not-on-10.x"]),
        ("b200", "w8a16", ["int-weights-not-on-10.x", "w8a16-export-form"]),
        ("b300", "w8a8_sq", ["smoothquant-not-on-10.x"]),
        ("gb200", "fp8_per_channel_per_token", ["fp8-per-channel-not-on-10.x"]),
        ("rtx-pro-6000", "fp8_per_channel_per_token", ["fp8-rowwise-not-on-12.x"]),
        ("gb10", "fp8_per_channel_per_token", ["fp8-rowwise-not-on-12.x"]),
        ("gb10", "w4a16", ["int4-doubted-on-12.x"]),
        ("rtx-pro-6000", "w4a16_awq", ["int4-doubted-on-12.x"]),
    ],
)
def test_the_rule_that_fires_is_named(
    gpu: str, recipe: str, rules: list[str], make_case: MakeCase
) -> None:
    assert rules_of(make_case(gpu, recipe, limits=SMALL)) == rules


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r not in {"nvfp4", "w4a8_awq"}])
def test_on_the_cpu_number_formats_are_emulated(recipe: str, make_case: MakeCase) -> None:
    assert rules_of(make_case("cpu", recipe)) == []


def test_nvfp4_on_the_cpu_is_exported_only(make_case: MakeCase) -> None:
    hit = the_hit(make_case("cpu", "nvfp4"))

    assert (hit.rule, hit.severity) == ("nvfp4-not-scored-on-cpu", Severity.EXPORT_ONLY)


def test_groups_name_the_linears_that_do_not_fit(make_case: MakeCase) -> None:
    hit = the_hit(make_case("cpu", "w4a16", SMOLLM2))

    assert hit.rule == "group-divides-columns"
    assert "q_proj has 576 input columns" in hit.actual
    assert "down_proj" not in hit.actual  # 1536 is twelve groups of 128
    assert hit.remedy == "set group_size: 64"


@pytest.mark.parametrize("size", [16, 32, 64])
def test_groups_that_fit_are_accepted(size: int, make_case: MakeCase) -> None:
    assert rules_of(make_case("cpu", {"recipe": "w4a16", "group_size": size}, SMOLLM2)) == []


@pytest.mark.parametrize(
    ("intermediate", "uneven"),
    [
        (512, None),  # two groups on each of two GPUs
        (640, "down_proj has 640 input columns on 2 GPUs"),  # five groups: two and a half on each
    ],
)
def test_groups_have_to_fit_on_each_gpu(
    intermediate: int, uneven: str | None, make_case: MakeCase
) -> None:
    heads = {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = {**SMOLLM2, **heads, "intermediate_size": intermediate}

    hits = check(*make_case("l4", "w4a16_awq", config, parallel=[{"tensor": 2}]))

    assert [hit.actual for hit in hits] == ([f"groups of 128; {uneven}"] if uneven else [])


def test_the_exporter_wants_whole_groups_on_each_gpu_in_every_linear(make_case: MakeCase) -> None:
    heads = {"hidden_size": 1152, "num_attention_heads": 18, "num_key_value_heads": 2}
    config = {**SMOLLM2, **heads, "intermediate_size": 512}

    hit = the_hit(make_case("l4", "w4a16_awq", config, parallel=[{"tensor": 2}]))

    assert "up_proj has 1152 input columns on 2 GPUs" in hit.actual
    assert hit.remedy == "set group_size: 64"


def test_a_fixed_group_size_cannot_be_changed(make_case: MakeCase) -> None:
    hit = the_hit(make_case("cpu", "w4a8_awq", SMOLLM2))

    assert hit.rule == "group-divides-columns"
    assert hit.remedy is not None
    assert "another recipe" in hit.remedy


def test_no_group_fits_an_odd_width(make_case: MakeCase) -> None:
    odd = {**SMOLLM2, "intermediate_size": 1001}

    hit = the_hit(make_case("cpu", "w4a16", odd))

    assert hit.remedy == "use a recipe without groups"


def test_w4a8_has_groups_of_128(make_case: MakeCase) -> None:
    assert rules_of(make_case("h100-sxm", {"recipe": "w4a8_awq", "group_size": 128})) == []
    assert rules_of(make_case("h100-sxm", {"recipe": "w4a8_awq", "group_size": 64})) == [
        "w4a8-group-128"
    ]


@pytest.mark.parametrize(
    ("tensor", "rules"),
    [
        (1, []),
        (2, ["query-heads-by-tensor-parallel", "kv-heads-by-tensor-parallel"]),
        (3, []),
        (9, ["kv-heads-by-tensor-parallel", "intermediate-by-tensor-parallel"]),
    ],
)
def test_heads_are_never_cut(tensor: int, rules: list[str], make_case: MakeCase) -> None:
    assert rules_of(make_case("l4", "none", SMOLLM2, parallel=[{"tensor": tensor}])) == rules


def test_a_refused_size_comes_with_those_that_work(make_case: MakeCase) -> None:
    hits = check(*make_case("l40s", "none", SMOLLM2, parallel=[{"tensor": 2}]))

    assert hits[0].expected.endswith("1, 3, 9")
    assert hits[1].expected.endswith("1, 3")


@pytest.mark.parametrize(
    ("stages", "fits"), [(1, True), (3, True), (30, True), (4, False), (31, False)]
)
def test_stages_hold_the_same_number_of_layers(
    stages: int, make_case: MakeCase, *, fits: bool
) -> None:
    case = make_case("l4", "none", SMOLLM2, parallel=[{"pipeline": stages}])
    assert rules_of(case) == ([] if fits else ["pipeline-divides-layers"])


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"pipeline": 2}])
def test_the_cpu_is_one_rank(parallel: dict[str, int], make_case: MakeCase) -> None:
    assert rules_of(make_case("cpu", "none", parallel=[parallel])) == ["cpu-is-one-rank"]


@pytest.mark.parametrize(
    ("target", "toolchain", "rules"),
    [
        ("cpu", "inductor", []),
        ("cpu", "tensorrt-llm-1.2.1", ["builder-fits-target"]),
        ("l4", "inductor", ["builder-fits-target"]),
        ("l4", "tensorrt-llm-1.2.1", []),
    ],
)
def test_a_builder_has_its_targets(
    target: str, toolchain: str, rules: list[str], make_case: MakeCase
) -> None:
    assert rules_of(make_case(target, "none", SMOLLM2, toolchain=toolchain)) == rules


@pytest.mark.parametrize(
    ("driver", "toolchain", "fires"),
    [
        ("580.65.06", "tensorrt-llm-1.2.1", False),
        ("580", "tensorrt-llm-1.2.1", False),
        ("1000.1", "tensorrt-llm-1.2.1", False),
        ("579.99.99", "tensorrt-llm-1.2.1", True),
        ("570.124.06", "tensorrt-llm-1.2.1", True),
        ("570.124.06", "tensorrt-llm-1.0.0", False),
        ("525.60.13", "tensorrt-llm-0.18.2", False),
        ("470.82.01", "tensorrt-llm-0.18.2", True),
    ],
)
def test_a_cuda_major_has_an_oldest_driver(
    driver: str, toolchain: str, make_case: MakeCase, *, fires: bool
) -> None:
    case = make_case({"gpu": "l4", "driver": driver}, "none", SMOLLM2, toolchain=toolchain)

    assert rules_of(case) == (["driver-runs-cuda"] if fires else [])


@pytest.mark.parametrize(
    ("cuda", "toolchain", "fires"),
    [
        ("13.0", "tensorrt-llm-1.2.1", False),
        ("13.2", "tensorrt-llm-1.1.0", False),
        ("12.8", "tensorrt-llm-1.2.1", True),
        ("12.4", "tensorrt-llm-0.21.0", False),
    ],
)
def test_cuda_majors_do_not_mix(
    cuda: str, toolchain: str, make_case: MakeCase, *, fires: bool
) -> None:
    case = make_case({"gpu": "l4", "cuda": cuda}, "none", SMOLLM2, toolchain=toolchain)

    assert rules_of(case) == (["cuda-major-is-the-toolchains"] if fires else [])


@pytest.mark.parametrize(
    ("gpu", "toolchain", "fires"),
    [
        ("b300", "tensorrt-llm-1.0.0", True),
        ("b300", "tensorrt-llm-1.1.0", False),
        ("gb10", "tensorrt-llm-0.21.0", True),
        ("b200", "tensorrt-llm-0.18.2", False),
    ],
)
def test_a_release_knows_its_gpus(
    gpu: str, toolchain: str, make_case: MakeCase, *, fires: bool
) -> None:
    case = make_case(gpu, "none", SMOLLM2, toolchain=toolchain)

    assert rules_of(case) == (["toolchain-knows-gpu"] if fires else [])


@pytest.mark.parametrize(
    ("architecture", "target", "toolchain", "fires"),
    [
        ("LlamaForCausalLM", "cpu", "inductor", False),
        ("Qwen3ForCausalLM", "cpu", "inductor", False),
        ("MixtralForCausalLM", "cpu", "inductor", True),
        ("Qwen3ForCausalLM", "l4", "tensorrt-llm-1.2.1", False),
        ("GptOssForCausalLM", "l4", "tensorrt-llm-1.2.1", True),
        ("Llama4ForConditionalGeneration", "l4", "tensorrt-llm-1.2.1", True),
        ("DeepseekV3ForCausalLM", "l4", "tensorrt-llm-1.2.1", True),
    ],
)
def test_a_builder_knows_its_architectures(
    architecture: str, target: str, toolchain: str, make_case: MakeCase, *, fires: bool
) -> None:
    config = {**SMOLLM2, "architectures": [architecture], "head_dim": 64, **OF_EXPERTS}
    refusals = [
        hit.rule
        for hit in check(*make_case(target, "none", config, toolchain=toolchain))
        if hit.severity is Severity.REFUSE
    ]

    assert refusals == (["architecture-known-to-builder"] if fires else [])


UNVERIFIED = "tensorrt-llm-1.3.0rc20"


@pytest.mark.parametrize(
    ("target", "architecture", "toolchain", "rule"),
    [
        ({"gpu": "l4", "driver": "570.124.06"}, "LlamaForCausalLM", UNVERIFIED, "driver-runs-cuda"),
        ({"gpu": "l4", "cuda": "12.9"}, "LlamaForCausalLM", UNVERIFIED,
         "cuda-major-is-the-toolchains"),
        ({"gpu": "l4"}, "GptOssForCausalLM", UNVERIFIED, "architecture-known-to-builder"),
        ({"gpu": "l4"}, "Qwen3ForCausalLM", "tensorrt-llm-0.21.0", "architecture-known-to-builder"),
    ],
)  # fmt: skip
def test_what_nobody_has_verified_warns_and_refuses_nothing(
    target: dict[str, str], architecture: str, toolchain: str, rule: str, make_case: MakeCase
) -> None:
    config = {**SMOLLM2, "architectures": [architecture], "head_dim": 64}
    hits = {one.rule: one for one in check(*make_case(target, "none", config, toolchain=toolchain))}

    assert hits[rule].severity is Severity.WARN
    assert f"of {toolchain}: not verified" in hits[rule].source
    assert Severity.REFUSE not in {one.severity for one in hits.values()}


def test_every_fact_that_a_rule_names_is_one_of_a_release() -> None:
    names = {name for release in releases().values() for name in release.every_fact()}

    assert {rule.fact for rule in RULES if rule.fact is not None} <= names


LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    ("gpu", "recipe", "tensor", "fires"),
    [
        ("h100-sxm", "none", 1, True),  # 141 GB of weights
        ("h100-sxm", "none", 2, False),  # 65.7 GiB of weights of 79.6
        ("h100-sxm", "fp8", 1, False),  # 66.7 GiB
        ("l4", "w4a16_awq", 1, True),
        ("l4", "w4a16_awq", 4, False),
        ("b300", "none", 1, False),
    ],
)
def test_weights_and_cache_have_to_fit(
    gpu: str, recipe: str, tensor: int, make_case: MakeCase, *, fires: bool
) -> None:
    limits = {"max_batch_size": 4, "max_seq_len": 4096}
    case = make_case(gpu, recipe, LLAMA_70B, parallel=[{"tensor": tensor}], limits=limits)

    assert rules_of(case) == (["model-fits-memory"] if fires else [])


def test_the_remedy_counts_the_tokens_that_fit(make_case: MakeCase) -> None:
    limits: dict[str, Any] = {"max_batch_size": 256, "max_input_len": 1024, "max_seq_len": 8192}

    hit = the_hit(make_case("h100-sxm", "none", limits=limits))

    # 81,559 MiB less 16.06 GB of weights, nine tenths of it, at 128 KiB for each token.
    fitting = int((81559 * 2**20 - 16_060_522_496) * 0.9 / 131072)
    assert hit.remedy == f"{fitting} tokens fit: lower limits, or set limits.kv_cache_tokens"
    limits["kv_cache_tokens"] = fitting  # it fits then by what is certain
    assert rules_of(make_case("h100-sxm", "none", limits=limits)) == ["activations-fit-memory"]
    too_many = {**limits, "kv_cache_tokens": fitting + 1}
    assert rules_of(make_case("h100-sxm", "none", limits=too_many)) == ["model-fits-memory"]


def test_a_quantized_cache_is_half_as_large(make_case: MakeCase) -> None:
    limits = {"max_batch_size": 16, "max_seq_len": 32768}  # 64 GiB in 16 bits

    assert rules_of(make_case("h100-sxm", "none", limits=limits)) == ["model-fits-memory"]
    recipe = {"recipe": "none", "kv_cache": "int8"}
    assert rules_of(make_case("h100-sxm", recipe, limits=limits)) == []


def test_memory_may_be_less_than_the_gpu_has(make_case: MakeCase) -> None:
    assert rules_of(make_case({"gpu": "h100-sxm", "memory": "20GiB"}, "none")) == []
    assert rules_of(make_case({"gpu": "h100-sxm", "memory": "10GiB"}, "none")) == [
        "model-fits-memory"
    ]


def test_a_model_of_unknown_size_is_said_to_be_one(make_case: MakeCase) -> None:
    config = {**SMOLLM2, "architectures": ["PhiForCausalLM"], "head_dim": 64}

    hit = the_hit(make_case("l4", "none", config))

    assert (hit.rule, hit.severity) == ("size-is-known", Severity.WARN)


def test_a_request_beyond_the_context_is_warned_of(make_case: MakeCase) -> None:
    limits = {"max_batch_size": 1, "max_seq_len": 8193}

    hit = the_hit(make_case("cpu", "none", SMOLLM2, limits=limits))

    assert (hit.rule, hit.severity) == ("sequence-within-context", Severity.WARN)
    assert rules_of(make_case("cpu", "none", SMOLLM2, limits={"max_seq_len": 8192})) == []


@pytest.mark.parametrize(
    ("target", "recipe", "fields", "rule"),
    [
        ("a100-sxm-80gb", "fp8", {}, "fp8-needs-8.9"),
        ("h100-sxm", "nvfp4", {}, "nvfp4-needs-10.0"),
        ("b200", "w8a8_sq", {}, "smoothquant-not-on-10.x"),
        ({"gpu": "l4", "driver": "570.86"}, "none", {}, "driver-runs-cuda"),
        ({"gpu": "l4", "cuda": "12.9"}, "none", {}, "cuda-major-is-the-toolchains"),
        ("b300", "none", {"toolchain": "tensorrt-llm-0.18.2"}, "toolchain-knows-gpu"),
        ("l4", {"recipe": "w4a8_awq", "group_size": 64}, {}, "w4a8-group-128"),
        ("l4", "none", {"toolchain": "inductor"}, "builder-fits-target"),
        ("cpu", "none", {"parallel": [{"tensor": 2}]}, "cpu-is-one-rank"),
        ("cpu", "nvfp4", {}, "nvfp4-not-scored-on-cpu"),
    ],
)
def test_what_needs_no_model_is_found_without_one(
    target: Any,  # noqa: ANN401 - the file's own shape
    recipe: Any,  # noqa: ANN401
    fields: dict[str, Any],
    rule: str,
    make_case: MakeCase,
) -> None:
    variant, _ = make_case(target, recipe, **fields)

    assert rule in {hit.rule for hit in check(variant, target_facts(variant))}


def test_every_rule_has_a_name_of_its_own_a_statement_and_a_source() -> None:
    assert len({rule.identifier for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.statement.endswith(".")
        assert len(rule.source) > 20
