"""The engine key of a variant: computed from what is declared, before anything is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper import __version__
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.tools import Maker, Tools
from enginekeeper.specs.variants import Variant
from registry.digests import Digest, digest_document, digest_file
from registry.keys import CpuEnvironment, EngineKey

BUILTIN_CALIBRATION = Path(__file__).parents[1] / "data" / "calibration" / "mixed-v1.jsonl"


@dataclass(frozen=True)
class Host:
    """The machine an engine of the embedded builder is bound to."""

    system: str
    architecture: str
    instruction_set: tuple[str, ...]


def engine_key(variant: Variant, weights: Digest, host: Host, tools: Tools) -> EngineKey:
    """Returns the key of a variant built from these weights on this host.

    Raises UnavailableError where its toolchain has no lock file on this host.
    """
    builder = _builder(variant, tools)
    if variant.is_vllm_bundle:
        return _bundle_key(variant, weights, builder, host, tools)
    repairing = variant.recipe.repair == "auto" and variant.backend == "engine"
    return EngineKey.of(
        builder=str(variant.profile.maker),
        weights=str(weights),
        recipe=recipe_document(variant),
        calibration=str(calibration_digest(variant)) if variant.recipe.calibrated else None,
        quantizer=f"modelopt {tools.modelopt}",
        quantizer_lock=tools.quantizer.lock,
        quantizer_code=tools.quantizer.code,
        repairs=variant.recipe.repair,
        repair_code=tools.repairs if repairing else None,
        builder_lock=builder.lock,
        builder_code=builder.code,
        build_config=str(digest_document(build_document(variant), "ek-build-config-v1")),
        tensor_parallel=variant.parallel.tensor,
        pipeline_parallel=variant.parallel.pipeline,
        os=host.system,
        cpu_architecture=host.architecture,
        info={"enginekeeper": __version__, "variant": variant.identifier},
        **_hardware(variant, host, tools),
    )


def _bundle_key(
    variant: Variant, weights: Digest, builder: Maker, host: Host, tools: Tools
) -> EngineKey:
    """Returns the key of a serving bundle: the model as it is, and what serves it.

    Nothing of a recipe is in it: variants that differ in their recipe alone share a bundle.
    """
    return EngineKey.of(
        builder=str(variant.profile.maker),
        weights=str(weights),
        builder_lock=builder.lock,
        builder_code=builder.code,
        build_config=str(digest_document(asdict(variant.limits), "ek-build-config-v1")),
        tensor_parallel=variant.parallel.tensor,
        pipeline_parallel=variant.parallel.pipeline,
        os=host.system,
        cpu_architecture=host.architecture,
        info={"enginekeeper": __version__, "variant": variant.identifier},
        **_hardware(variant, host, tools),
    )


def external_key(key: EngineKey, checkpoint: Digest) -> EngineKey:
    """Returns the key of an engine built from a checkpoint that somebody else made."""
    ours = {"quantizer_lock", "quantizer_code", "repair_code"}
    rest = {name: value for name, value in key.hard.items() if name not in ours}
    return EngineKey({**rest, "quantizer": f"external {checkpoint}"})


def build_document(variant: Variant) -> dict[str, Any]:
    """Returns what is asked of the builder: the limits, and every option that the spec sets.

    An option left to its default has no part in it, so that a new field changes no key.
    """
    given = variant.build.given
    document = {**asdict(variant.limits), **({"build": given} if given else {})}
    if variant.llm_api is not None:
        document["llm_api"] = variant.llm_api.given
    return document


def recipe_document(variant: Variant) -> dict[str, Any]:
    """Returns what the recipe asks of the quantizer, without what it asks of the judge."""
    recipe = variant.recipe
    return {
        "name": str(recipe.recipe),
        "kv_cache": str(recipe.kv_cache),
        "group_size": recipe.group,
        "exclude_modules": list(recipe.exclude_modules),
    }


def calibration_path(variant: Variant) -> Path:
    """Returns the calibration text's file; raises InputError when there is none."""
    data = variant.calibration.data
    path = BUILTIN_CALIBRATION if data == "builtin" else Path(data)
    if not path.is_file():
        raise InputError(
            "there is no such calibration data",
            where=f"{variant.identifier}: calibration.data",
            actual=str(path),
            expected="`builtin`, or a JSON Lines file with a text field",
        )
    return path


def calibration_digest(variant: Variant) -> Digest:
    """Names what calibrates a recipe: the text by its bytes, how much of it, and the seed."""
    document = {
        "data": str(digest_file(calibration_path(variant))),
        "samples": variant.calibration.samples,
        "max_tokens": variant.calibration.max_tokens,
        "seed": variant.calibration.seed,
    }
    return digest_document(document, "ek-calibration-v1")


def local_environment(host: Host, torch: str) -> CpuEnvironment:
    """Returns the environment that engines of the embedded builder meet on this machine."""
    return CpuEnvironment(host.instruction_set, torch)


def _builder(variant: Variant, tools: Tools) -> Maker:
    makers = tools.warmers if variant.backend == "pytorch" else tools.builders
    builder = makers.get(variant.toolchain)
    if builder is None:
        raise UnavailableError(
            f"the toolchain {variant.toolchain} has no lock file on this host, "
            "and an engine is bound to it",
            where=variant.identifier,
            remedy=f"where it builds: enginekeeper toolchain lock {variant.toolchain}",
        )
    return builder


def _hardware(variant: Variant, host: Host, tools: Tools) -> dict[str, Any]:
    product = variant.target.product
    if product is None:
        return {"instruction_set": list(host.instruction_set), "torch": tools.torch}
    profile = variant.profile
    release = profile.release
    return {
        "tensorrt_llm": None if release is None else release.version,
        "tensorrt": profile.tensorrt,
        "compute_capability": str(product.compute_capability),
        "gpu_product": product.product,
        "cuda_runtime": variant.target.cuda or profile.cuda,
        "driver": variant.target.driver,
    }
