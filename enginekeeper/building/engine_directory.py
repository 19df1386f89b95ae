"""Looks at an engine directory of `trtllm-build`, without TensorRT and without a GPU.

Rules:

- each rank of the checkpoint has its plan, none is empty, and there is no other; where one keeps
  its weights in a file beside it (`fast_build`), all do;
- `config.json` says the release that was asked for, and of the model what the checkpoint says:
  anything else is an error;
- what was asked of the build and what came of it may differ: TensorRT-LLM changes what it is asked
  for (no reduce_fusion on one GPU, no FP8 attention without FP8 keys and values); the differences
  are reported, and so is an option of which the engine says nothing;
- bytes 24 to 27 of a plan are said to hold its TensorRT version (sampleEngines.cpp of
  NVIDIA/TensorRT; not seen on a real engine by us), so another version there is a warning;
- what a double made says so in its config.json, and stays marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.specs.build_flags import FlagValue

_TAG = b"ftrt"
_VERSION = slice(24, 28)

_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "strip_plan": ("build_config", "use_strip_plan"),
    "max_lora_rank": ("build_config", "lora_config", "max_lora_rank"),
    "gpus_per_node": ("build_config", "auto_parallel_config", "gpus_per_node"),
    "logits_dtype": ("pretrained_config", "logits_dtype"),
    "fast_build": ("build_config", "plugin_config", "manage_weights"),
}
"""Where an option's value lies in config.json, unless below build_config by its own name."""

_MODES = ("draft_tokens_external", "medusa", "lookahead_decoding", "explicit_draft_tokens", "eagle")
"""SpeculativeDecodingMode, in the order of its bits from the second on: it is kept as a number."""

_NOT_KEPT = frozenset({("rank",), ("mapping", "rank"), ("mapping", "gpus_per_node")})
"""Fields of a checkpoint's config that an engine's does not have, or has from the command line."""

_KEPT_OF_MIXED = frozenset({"quant_algo", "kv_cache_quant_algo"})
"""All that an engine says of a quantization of several formats: the rest is in quant_cfg.json
(LayerQuantConfig.to_dict, Engine.save)."""

_AGAIN = "build it again; if it stays so, report it with the engine's config.json"


@dataclass(frozen=True)
class Difference:
    """An option that was asked for and came out otherwise."""

    option: str
    requested: object
    effective: object


@dataclass(frozen=True)
class Expected:
    """What an engine directory is held against."""

    version: str
    """The release."""

    tensorrt: str | None
    """Its TensorRT, as many parts as are known."""

    requested: Mapping[str, FlagValue]
    """The options that were asked for."""


@dataclass(frozen=True)
class EngineReport:
    """What an engine directory says of itself."""

    ranks: int
    tensorrt: str | None
    """From the first plan's header; None where it has none that is known."""

    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    simulated: bool
    """Whether a double made it: it proves nothing and is never deployed."""


def inspect_engine(directory: Path, checkpoint: Path, expected: Expected) -> EngineReport:
    """Checks an engine against its checkpoint and its request; raises InputError for a fault."""
    model = read_json_object(checkpoint / "config.json")
    config = read_json_object(directory / "config.json")
    where = str(directory / "config.json")
    plans = _plans(directory, _ranks(model, str(checkpoint)))
    if config.get("version") != expected.version:
        raise InputError(
            "the engine is of another release",
            where=where,
            actual=config.get("version"),
            expected=expected.version,
            remedy="use the toolchain that the spec names",
        )
    _hold_against(config, model, expected, where)
    versions = [_plan_version(plan) for plan in plans]
    effective = {name: _effective(config, name) for name in expected.requested}
    return EngineReport(
        ranks=len(plans),
        tensorrt=versions[0],
        differences=tuple(_differences(expected.requested, effective)),
        warnings=(
            *_version_warnings(plans, versions, expected.tensorrt),
            *_not_said(effective),
        ),
        simulated=config.get("simulated") is True,
    )


def is_stripped(config: Mapping[str, Any]) -> bool:
    """Says of an engine's config.json whether its weights were left out of the plan."""
    section, name = _ELSEWHERE["strip_plan"]
    build = config.get(section)
    return isinstance(build, Mapping) and build.get(name) is True


def _ranks(model: Mapping[str, Any], where: str) -> int:
    mapping = model.get("mapping") or {}
    size = mapping.get("world_size", 1) if isinstance(mapping, dict) else None
    if type(size) is not int or not 1 <= size <= 4096:  # noqa: PLR2004 - the spec's own bound
        raise InputError("mapping.world_size is not usable", where=where, actual=repr(size)[:80])
    return size


def _plans(directory: Path, ranks: int) -> list[Path]:
    wanted = [directory / f"rank{rank}.engine" for rank in range(ranks)]
    found = {path for path in directory.glob("rank*.engine") if path.stat().st_size > 0}
    if found != set(wanted):
        raise InputError(
            "the engine's ranks are not those of its checkpoint",
            where=str(directory),
            actual=", ".join(sorted(path.name for path in found)) or "none",
            expected=", ".join(path.name for path in wanted),
            remedy=_AGAIN,
        )
    _require_all_or_none(directory, ranks)
    return wanted


def _require_all_or_none(directory: Path, ranks: int) -> None:
    names = [f"rank{rank}_managed_weights.safetensors" for rank in range(ranks)]
    there = [name for name in names if (directory / name).is_file()]
    if there and there != names:
        raise InputError(
            "the engine lacks weights that it keeps beside its plans",
            where=str(directory),
            actual=", ".join(there),
            expected=", ".join(names),
            remedy=_AGAIN,
        )


def _hold_against(
    config: Mapping[str, Any], model: Mapping[str, Any], expected: Expected, where: str
) -> None:
    """Raises InputError for the first field of the model that the engine has otherwise."""
    asked = {("logits_dtype",)} if "logits_dtype" in expected.requested else set()
    skipped = _NOT_KEPT | asked
    mixed = _at(model, ("quantization", "quant_algo")) == "MIXED_PRECISION"
    for path, value in _leaves(model):
        if path in skipped:
            continue
        if mixed and path[0] == "quantization" and path[1] not in _KEPT_OF_MIXED:
            continue
        found = _at(config, ("pretrained_config", *path))
        if found != value:
            raise InputError(
                f"{'.'.join(path)}: the engine's config.json is not that of its checkpoint",
                where=where,
                actual="missing" if found is _MISSING else repr(found)[:200],
                expected=repr(value)[:200],
                remedy=_AGAIN,
            )


def _leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Any]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


_MISSING = object()


def _at(document: object, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - any JSON value
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return _MISSING
        document = document[name]
    return document


def _effective(config: Mapping[str, Any], name: str) -> object:
    """Returns what became of an option, as far as the engine says it."""
    own = _ELSEWHERE.get(name, ("build_config", name))
    paths = (own, ("build_config", "plugin_config", name))
    found = next((it for path in paths if (it := _at(config, path)) is not _MISSING), _MISSING)
    if name == "speculative_decoding_mode" and type(found) is int:
        return next((mode for bit, mode in enumerate(_MODES, 1) if found == 1 << bit), found)
    return found


def _differences(
    requested: Mapping[str, FlagValue], effective: Mapping[str, object]
) -> Iterator[Difference]:
    for name, value in requested.items():
        found = effective[name]
        if found is not _MISSING and not _same(value, found):
            yield Difference(name, value, found)


def _not_said(effective: Mapping[str, object]) -> Iterator[str]:
    unsaid = [name for name, value in effective.items() if value is _MISSING]
    if unsaid:
        yield f"config.json does not say what became of {', '.join(unsaid)}"


def _same(requested: FlagValue, effective: object) -> bool:
    if requested == "disable":
        return effective in (None, False)
    if requested == "auto":  # becomes the model's own number format
        return effective not in (None, False)
    if isinstance(requested, str) and isinstance(effective, str):
        return effective.lower().rpartition(".")[2] == requested.lower()
    return requested == effective


def _plan_version(plan: Path) -> str | None:
    with plan.open("rb") as file:
        head = file.read(_VERSION.stop)
    if len(head) < _VERSION.stop or head[: len(_TAG)] != _TAG:
        return None
    return ".".join(map(str, head[_VERSION]))


def _version_warnings(
    plans: list[Path], versions: list[str | None], tensorrt: str | None
) -> Iterator[str]:
    for plan, version in zip(plans, versions, strict=True):
        if version is None:
            yield f"{plan.name}: no header of a TensorRT plan that is known"
        elif tensorrt is not None and not f"{version}.".startswith(f"{tensorrt}."):
            yield f"{plan.name}: the plan's header says TensorRT {version}, expected {tensorrt}"
