"""The engine key of a variant: computed from what is declared, before anything is built."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper import __version__
from enginekeeper.errors import InputError
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


@dataclass(frozen=True)
class Tools:
    """Versions that enter the key, read from lock files without installing anything."""

    torch: str
    modelopt: str


def engine_key(variant: Variant, weights: Digest, host: Host, tools: Tools) -> EngineKey:
    """Returns the key of a variant built from these weights on this host."""
    return EngineKey.of(
        builder=str(variant.profile.builder),
        weights=str(weights),
        recipe=recipe_document(variant),
        calibration=str(calibration_digest(variant)) if variant.recipe.calibrated else None,
        quantizer=f"modelopt {tools.modelopt}",
        repairs=variant.recipe.repair,
        build_config=str(digest_document(asdict(variant.limits), "ek-build-config-v1")),
        tensor_parallel=variant.parallel.tensor,
        pipeline_parallel=variant.parallel.pipeline,
        os=host.system,
        cpu_architecture=host.architecture,
        info={"enginekeeper": __version__, "variant": variant.identifier},
        **_hardware(variant, host, tools),
    )


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


def local_environment(host: Host, tools: Tools) -> CpuEnvironment:
    """Returns the environment that engines of the embedded builder meet on this machine."""
    return CpuEnvironment(host.instruction_set, tools.torch)


def locked_version(lock: Path, distribution: str) -> str:
    """Returns the version a lock file pins; raises InputError when it pins none."""
    pattern = rf"^{re.escape(distribution)}==([^\s;\\]+)"
    match = re.search(pattern, lock.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise InputError(f"the lock file does not pin {distribution}", where=str(lock))
    return match[1]


def _hardware(variant: Variant, host: Host, tools: Tools) -> dict[str, Any]:
    product = variant.target.product
    if product is None:
        return {"instruction_set": list(host.instruction_set), "torch": tools.torch}
    profile = variant.profile
    return {
        "tensorrt_llm": variant.toolchain,
        "tensorrt": profile.tensorrt,
        "compute_capability": str(product.compute_capability),
        "gpu_product": product.product,
        "cuda_runtime": variant.target.cuda or profile.cuda,
        "driver": variant.target.driver,
    }
