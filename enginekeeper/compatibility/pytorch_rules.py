"""What can be asked of TensorRT-LLM's PyTorch backend: releases, options, and number formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginekeeper.compatibility.facts import TargetFacts
from enginekeeper.compatibility.rules import Finding, Rule, Severity
from enginekeeper.specs.llm_api import interface_of, releases_with
from enginekeeper.specs.profiles import BuilderKind
from enginekeeper.specs.recipes import KvCache, RecipeName

if TYPE_CHECKING:
    from enginekeeper.specs.variants import Variant

_LINEAR = "tensorrt_llm/_torch/modules/linear.py (00bbf71e)"

JUDGED = (
    RecipeName.NONE,
    RecipeName.FP8,
    RecipeName.FP8_PER_CHANNEL_PER_TOKEN,
    RecipeName.W4A16_AWQ,
    RecipeName.NVFP4,
)
"""Recipes whose checkpoint in Hugging Face's format can be read back here."""


def _needs_trtllm(variant: Variant, facts: TargetFacts) -> Finding | None:
    if variant.backend != "pytorch" or facts.toolchain.release is not None:
        return None
    return Finding(
        actual=f"backend: pytorch under {facts.toolchain.name}",
        expected="a release of TensorRT-LLM",
        remedy=f"set toolchain: tensorrt-llm-{_stable()[-1]}, or leave backend out",
    )


def _has_backend(_variant: Variant, facts: TargetFacts) -> Finding | None:
    release = facts.toolchain.release
    if facts.toolchain.builder is not BuilderKind.TRTLLM_PYTORCH or release is None:
        return None
    if release.version in (having := releases_with("pytorch")):
        return None
    return Finding(
        actual=release.name,
        expected=f"a release from {having[0]} on: {', '.join(having)}",
        remedy=f"set toolchain: tensorrt-llm-{_stable()[-1]}",
    )


def _takes_options(variant: Variant, facts: TargetFacts) -> Finding | None:
    release = facts.toolchain.release
    if variant.llm_api is None or release is None or variant.backend != "pytorch":
        return None
    if release.version not in releases_with("pytorch"):
        return None  # the rule before this one says so
    interface = interface_of(release.version, "pytorch")
    unknown = sorted(variant.llm_api.given.keys() - set(interface.arguments))
    if not unknown:
        return None
    return Finding(
        actual=f"{', '.join(unknown)} under {release.name}",
        expected=f"some of {', '.join(interface.arguments)}",
        remedy="leave it out",
    )


def _options_need_backend(variant: Variant, facts: TargetFacts) -> Finding | None:
    if variant.llm_api is None or variant.backend == "pytorch":
        return None
    return Finding(
        actual=f"an llm_api section with backend: engine under {facts.toolchain.name}",
        expected="backend: pytorch",
        remedy="set backend: pytorch, or put options of trtllm-build into build",
    )


def _recipe(variant: Variant, facts: TargetFacts) -> Finding | None:
    if facts.toolchain.builder is not BuilderKind.TRTLLM_PYTORCH:
        return None
    if variant.recipe.recipe in JUDGED:
        return None
    return Finding(
        actual=f"{variant.recipe.recipe} for the PyTorch backend",
        expected=f"one of {', '.join(JUDGED)}",
        remedy="set one of these recipes, or backend: engine",
    )


def _kv_cache(variant: Variant, facts: TargetFacts) -> Finding | None:
    if facts.toolchain.builder is not BuilderKind.TRTLLM_PYTORCH:
        return None
    plain = variant.recipe.recipe is RecipeName.NONE
    taken = (KvCache.AUTO,) if plain else (KvCache.AUTO, KvCache.FP8)
    if variant.recipe.kv_cache in taken:
        return None
    return Finding(
        actual=f"kv_cache: {variant.recipe.kv_cache} with recipe {variant.recipe.recipe}",
        expected=" or ".join(taken),
        remedy=f"set kv_cache: {taken[-1]}, or backend: engine",
    )


def _one_stage(variant: Variant, facts: TargetFacts) -> Finding | None:
    parallel = variant.parallel
    if facts.toolchain.builder is not BuilderKind.TRTLLM_PYTORCH or parallel.pipeline == 1:
        return None
    return Finding(
        actual=f"tensor {parallel.tensor}, pipeline {parallel.pipeline}",
        expected="pipeline 1",
        remedy="share each layer instead: tensor",
    )


def _stable() -> tuple[str, ...]:
    return tuple(version for version in releases_with("pytorch") if "rc" not in version)


PYTORCH_RULES = (
    Rule(
        identifier="pytorch-backend-needs-trtllm",
        statement="The PyTorch backend is one of TensorRT-LLM.",
        source="what the builders are",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_needs_trtllm,
    ),
    Rule(
        identifier="release-has-pytorch-backend",
        statement="TensorRT-LLM's PyTorch backend is stable from 1.0.0 on.",
        source="specs/data/trtllm_llm_api.json; release notes of 1.0.0 (ae8270b7)",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_has_backend,
    ),
    Rule(
        identifier="release-has-llm-option",
        statement="The class LLM ends with an error at an argument it does not have.",
        source="specs/data/trtllm_llm_api.json, with the source of each release",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_takes_options,
    ),
    Rule(
        identifier="llm-options-need-pytorch",
        statement="The llm_api section holds options of the PyTorch backend.",
        source="what the builders are",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_options_need_backend,
    ),
    Rule(
        identifier="pytorch-recipe",
        statement="Bundles are built of checkpoints that can be judged in Hugging Face's format.",
        source=f"{_LINEAR}: no linear of SmoothQuant; of W4A8 and INT8 or INT4 without AWQ "
        "ModelOpt's export was not held against our arithmetic",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_recipe,
    ),
    Rule(
        identifier="pytorch-kv-cache",
        statement="The PyTorch backend keeps keys and values in 16 bits, or in FP8 where ModelOpt "
        "wrote their scales.",
        source="specs/llm_options.py: kv_cache_config.dtype of the LLM API",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_kv_cache,
    ),
    Rule(
        identifier="pytorch-is-one-stage",
        statement="Bundles of GPUs that share each layer are built, of stages of layers not yet.",
        source="what the step warm_pytorch was tried with",
        severity=Severity.REFUSE,
        needs=TargetFacts,
        predicate=_one_stage,
    ),
)
