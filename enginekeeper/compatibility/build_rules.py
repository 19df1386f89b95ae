"""What can be asked of `trtllm-build`: options a release has, and options that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.facts import Facts, TargetFacts
from enginekeeper.compatibility.rules import Finding, Rule, Severity
from enginekeeper.specs.build_flags import BuildFlag, Presence, build_flags
from enginekeeper.specs.profiles import SIMULATED, BuilderKind
from enginekeeper.specs.recipes import RecipeName
from enginekeeper.specs.releases import newest_stable_with_engines, releases_with_engines

if TYPE_CHECKING:
    from enginekeeper.specs.variants import Variant

_BUILD = "tensorrt_llm/commands/build.py (008b2b8d and 65f1d153)"

_NOT_ON_100 = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "bert_context_fmha_fp32_acc",
)


_WITHOUT_STREAMINGLLM = ("1.2.0", "1.2.1")
_STREAMING = "LlamaForCausalLM"
"""The one that the releases before take it for."""


def _only_for_trtllm(variant: Variant, facts: TargetFacts) -> Finding | None:
    given = variant.build.given
    if not given or facts.toolchain.builder is BuilderKind.TENSORRT_LLM:
        return None
    return Finding(
        actual=f"{', '.join(given)} under {facts.toolchain.name}",
        expected="no build section: its options are those of trtllm-build",
    )


def _has_engines(_variant: Variant, facts: TargetFacts) -> Finding | None:
    release = facts.toolchain.release
    by_pytorch = facts.toolchain.builder is BuilderKind.TRTLLM_PYTORCH
    if release is None or release.builds_engines or by_pytorch:
        return None
    last = newest_stable_with_engines().name
    named = f"{SIMULATED}{last}" if facts.toolchain.simulated else last
    return Finding(
        actual=f"{facts.toolchain.name}, which has no trtllm-build",
        expected=f"a release {releases_with_engines()}",
        remedy=f"set toolchain: {named}, or backend: pytorch",
    )


def _lacked(variant: Variant, facts: TargetFacts) -> Finding | None:
    lacked = _of_presence(variant, facts, Presence.ABSENT)
    if not lacked:
        return None
    return Finding(
        actual=f"{_named(lacked)} under {facts.toolchain.name}",
        expected="; ".join(f"--{flag.name}: {', '.join(flag.has)}" for flag in lacked),
        remedy="leave it out, or use one of these releases",
    )


def _not_verified(variant: Variant, facts: TargetFacts) -> Finding | None:
    release = facts.toolchain.release
    doubtful = _of_presence(variant, facts, Presence.UNVERIFIED)
    if release is None or not release.builds_engines or not doubtful:
        return None
    return Finding(
        actual=f"{_named(doubtful)} under {release.name}",
        expected="options that somebody has seen in this release",
        remedy="look at `trtllm-build --help` there: ek toolchain compare-help",
    )


def _of_presence(variant: Variant, facts: TargetFacts, presence: Presence) -> list[BuildFlag]:
    release = facts.toolchain.release
    if release is None:
        return []
    flags = [build_flags()[name] for name in variant.build.given]
    return [flag for flag in flags if flag.presence(release.version) is presence]


def _named(flags: list[BuildFlag]) -> str:
    return ", ".join(f"--{flag.name}" for flag in flags)


def _profiles_or_tokens(variant: Variant, _facts: TargetFacts) -> Finding | None:
    build = variant.build
    if not build.multiple_profiles or build.opt_num_tokens is None:
        return None
    return Finding(
        actual=f"multiple_profiles and opt_num_tokens {build.opt_num_tokens}",
        expected="one of the two",
    )


def _context_logits_or_drafts(variant: Variant, _facts: TargetFacts) -> Finding | None:
    build = variant.build
    if not build.gather_context_logits or not build.max_draft_len:
        return None
    return Finding(
        actual=f"gather_context_logits and max_draft_len {build.max_draft_len}",
        expected="one of the two",
    )


def _plugin_on_100(variant: Variant, facts: TargetFacts) -> Finding | None:
    if facts.gpu is None or str(facts.gpu.compute_capability) != "10.0":
        return None
    given = variant.build.given
    asked = [name for name in _NOT_ON_100 if given.get(name, "disable") not in ("disable", False)]
    if not asked:
        return None
    return Finding(
        actual=f"{', '.join(asked)} on {facts.gpu.name}, 10.0",
        expected="none of them on compute capability 10.0",
    )


def _mixtral_only(variant: Variant, facts: Facts) -> Finding | None:
    if not variant.build.pp_reduce_scatter or facts.model.architecture == "MixtralForCausalLM":
        return None
    return Finding(
        actual=f"pp_reduce_scatter for {facts.model.architecture}", expected="MixtralForCausalLM"
    )


def _streamingllm(variant: Variant, facts: Facts) -> Finding | None:
    release, architecture = facts.toolchain.release, facts.model.architecture
    if not variant.build.streamingllm or release is None:
        return None
    if release.version in _WITHOUT_STREAMINGLLM:
        return Finding(
            actual=f"streamingllm under {release.name}", expected="streamingllm left out"
        )
    if architecture == _STREAMING:
        return None
    return Finding(actual=f"streamingllm for {architecture}", expected=_STREAMING)


def _adapters(variant: Variant, _facts: TargetFacts) -> Finding | None:
    if variant.build.lora_plugin in (None, "disable"):
        return None
    return Finding(
        actual=f"lora_plugin {variant.build.lora_plugin}",
        expected="lora_plugin left out",
        remedy="leave it out: a spec cannot name adapters or their modules, without which the "
        "build ends",
    )


def _stripped_or_fast(variant: Variant, _facts: TargetFacts) -> Finding | None:
    if not (variant.build.strip_plan and variant.build.fast_build):
        return None
    return Finding(actual="strip_plan and fast_build", expected="one of the two")


def _w8a16_form(variant: Variant, facts: TargetFacts) -> Finding | None:
    if facts.toolchain.builder is not BuilderKind.TENSORRT_LLM:
        return None
    if variant.recipe.recipe is not RecipeName.W8A16:
        return None
    return Finding(
        actual="ModelOpt's export: int8 weights with weights_scaling_factor",
        expected="half-precision weights that the loader quantizes, or int8 with per_channel_scale",
        remedy="use fp8 where the GPU has it; not tried on a GPU, see docs/quantization.md",
    )


BUILD_RULES = (
    Rule(
        identifier="build-options-need-trtllm",
        statement="The build section holds options of trtllm-build; other builders have none.",
        source="what the builders are",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_only_for_trtllm,
    ),
    Rule(
        identifier="release-builds-engines",
        statement="Later releases of TensorRT-LLM have no trtllm-build, only the PyTorch backend.",
        source="github.com/NVIDIA/TensorRT-LLM/releases/tag/v1.3.0rc20",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_has_engines,
    ),
    Rule(
        identifier="release-has-option",
        statement='trtllm-build ends with "unrecognized arguments" at an option it does not have.',
        source="specs/data/trtllm_build_flags.json, with the source of each option",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_lacked,
    ),
    Rule(
        identifier="option-not-verified",
        statement="Whether a release has an option is known only where somebody has looked.",
        source="specs/data/trtllm_build_flags.json, with the source of each option",
        severity=Severity.WARN,
        needs=TargetFacts,
        predicate=_not_verified,
    ),
    Rule(
        identifier="profiles-or-opt-num-tokens",
        statement="trtllm-build refuses multiple_profiles together with opt_num_tokens.",
        source=f"{_BUILD}: RuntimeError",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_profiles_or_tokens,
    ),
    Rule(
        identifier="context-logits-or-draft-tokens",
        statement="trtllm-build refuses gather_context_logits together with draft tokens.",
        source=f"{_BUILD}: RuntimeError",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_context_logits_or_drafts,
    ),
    Rule(
        identifier="plugin-not-on-10.0",
        statement="trtllm-build refuses five plugins and features on compute capability 10.0.",
        source='tensorrt_llm/plugin/plugin.py (c20322ff), validate(): "... is not supported on SM"',
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_plugin_on_100,
    ),
    Rule(
        identifier="pp-reduce-scatter-is-mixtrals",
        statement="trtllm-build takes pp_reduce_scatter for Mixtral only.",
        source=f"{_BUILD}: AssertionError",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_mixtral_only,
    ),
    Rule(
        identifier="streamingllm-is-gone",
        statement="trtllm-build has the option, and refuses it when it builds: before 1.2 for any "
        "model but Llama, then for all.",
        source=f"{_BUILD}: AssertionError",
        severity=Severity.REFUSE,
        needs=Facts,
        predicate=_streamingllm,
    ),
    Rule(
        identifier="adapters-need-modules",
        statement="With lora_plugin trtllm-build ends unless it is told modules or adapters.",
        source="tensorrt_llm/lora_manager.py (007e181b), load_hf_lora: ValueError",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_adapters,
    ),
    Rule(
        identifier="stripped-or-fast",
        statement="A fast build keeps weights beside its plans; trtllm-refit does not write them.",
        source="tensorrt_llm/builder.py (008b2b8d), Engine.save; commands/refit.py (548b5b73): it "
        "copies config.json and the plans",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_stripped_or_fast,
    ),
    Rule(
        identifier="w8a16-export-form",
        statement="TensorRT-LLM's loader quantizes W8A16 itself; ModelOpt exports another form.",
        source="weight_only_quantize_dict in tensorrt_llm/models/convert_utils.py, read, not run",
        severity=Severity.WARN,
        needs=TargetFacts,
        predicate=_w8a16_form,
    ),
)
