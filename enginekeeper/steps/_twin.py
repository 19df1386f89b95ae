"""Loads a Hugging Face directory as a float32 model, with a twin's input roundings installed.

`twin.json` lists, per linear, a vector the input is multiplied with and how the input is rounded,
and per layer the scales the key-value cache is rounded with. Whatever it names must exist, and
whatever it asks for must be known: a twin that is silently less quantized than it says proves
nothing.
"""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _fake_quant as fake_quant
import torch
import transformers
from _step import Refusal
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Tensor = torch.Tensor

SCHEMA = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, and what it calls its arm."""

    model: Any
    arm: str
    new_cache: Callable[[], DynamicCache]
    """Makes the key-value cache of one batch, rounding what it stores if the twin says so."""


class RoundedCache(DynamicCache):
    """A key-value cache that rounds keys and values, after rotation, before it stores them."""

    def __init__(self, roundings: Mapping[int, tuple[Rounding, Rounding]]) -> None:
        super().__init__()
        self._roundings = roundings

    def update(
        self,
        keys: Tensor,
        values: Tensor,
        layer: int,
        *rest: object,
        **more: object,
    ) -> tuple[Tensor, Tensor]:
        """Stores the rounded keys and values and returns all that is stored."""
        round_keys, round_values = self._roundings[layer]
        return super().update(round_keys(keys), round_values(values), layer, *rest, **more)


if TYPE_CHECKING:
    Rounding = Callable[[Tensor], Tensor]


def load_model(directory: Path, *, rounded: bool = True) -> LoadedModel:
    """Loads a twin, or a plain model directory; `rounded` says whether inputs and cache are."""
    model = load_weights(directory)
    description = directory / "twin.json"
    if not description.exists():
        return LoadedModel(model, "source", DynamicCache)
    twin = json.loads(description.read_text(encoding="utf-8"))
    if twin.get("schema") != SCHEMA:
        raise Refusal(
            "not-a-twin",
            "twin.json is of another version",
            where=str(description),
            expected=SCHEMA,
            actual=twin.get("schema"),
        )
    _install_hooks(model, twin.get("linears") or {}, directory, rounded=rounded)
    roundings = _cache_roundings(twin.get("kv_cache"), model.config.num_hidden_layers)
    if not rounded:
        roundings = {}
    new_cache = functools.partial(RoundedCache, roundings) if roundings else DynamicCache
    return LoadedModel(model, "twin", new_cache)


def nudge(model: Any, relative: float, seed: int) -> None:  # noqa: ANN401 - transformers is untyped
    """Adds relative noise to what every linear layer returns, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(_module: object, _inputs: object, output: Tensor) -> Tensor:
        return output * (1 + relative * torch.randn(output.shape, generator=generator))

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(disturb)


def load_weights(directory: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Loads every weight in float32; a weight that is absent would be random, so it is refused."""
    if not (directory / "config.json").is_file():
        raise Refusal("not-a-model", "config.json is missing", where=str(directory))
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            raise Refusal(
                "weights-do-not-fit",
                f"the weights do not fit the config: {problem.replace('_', ' ')}",
                where=str(directory),
                actual=sorted(str(name) for name in loading[problem])[:4],
            )
    return model.eval()


def _install_hooks(
    model: Any,  # noqa: ANN401
    linears: Mapping[str, Any],
    directory: Path,
    *,
    rounded: bool,
) -> None:
    modules = dict(model.named_modules())
    extra_path = directory / "twin_extra.safetensors"
    extra = load_file(extra_path) if extra_path.exists() else {}
    for name, wanted in linears.items():
        module = modules.get(name)
        if not isinstance(module, torch.nn.Linear):
            raise Refusal("not-a-twin", "twin.json names no linear layer", where=name)
        vector = None
        if wanted.get("prequant") is not None:
            vector = extra.get(wanted["prequant"])
            if vector is None or vector.shape != (module.in_features,):
                raise Refusal(
                    "not-a-twin",
                    "twin_extra.safetensors has no fitting vector",
                    where=f"{name}: {wanted['prequant']}",
                    expected=[module.in_features],
                    actual=None if vector is None else list(vector.shape),
                )
        rounding = _activation_rounding(wanted.get("activation") if rounded else None, name)
        module.register_forward_pre_hook(functools.partial(_before, vector, rounding))


def _before(
    vector: Tensor | None, rounding: Rounding, _module: object, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    x = inputs[0] if vector is None else inputs[0] * vector
    return (rounding(x), *inputs[1:])


def _activation_rounding(wanted: Mapping[str, Any] | None, name: str) -> Rounding:
    if wanted is None:
        return lambda x: x
    match wanted.get("kind"):
        case "fp8_per_token":
            return fake_quant.fp8_per_token
        case "fp8_static":
            scale = _scale(wanted.get("scale"), name)
            return lambda x: fake_quant.fp8_static(x, scale)
        case "int8_static":
            scale = _scale(wanted.get("scale"), name)
            return lambda x: fake_quant.int8_static(x, scale)
        case "nvfp4":
            scale = _scale(wanted.get("scale"), name)
            return lambda x: fake_quant.nvfp4_dynamic(x, scale)
        case other:
            raise Refusal(
                "not-a-twin",
                "twin.json asks for an unknown rounding",
                where=name,
                expected="fp8_static, fp8_per_token, int8_static, nvfp4",
                actual=other,
            )


def _cache_roundings(
    wanted: Mapping[str, Any] | None, layers: int
) -> dict[int, tuple[Rounding, Rounding]]:
    """Returns the key and the value rounding of every layer; empty when the cache is exact."""
    if wanted is None:
        return {}
    kinds = {"fp8": fake_quant.fp8_static, "int8": fake_quant.int8_static}
    kind, scales = kinds.get(wanted.get("kind", "")), wanted.get("layers") or {}
    if kind is None or set(scales) != {str(layer) for layer in range(layers)}:
        raise Refusal(
            "not-a-twin",
            "twin.json's kv_cache needs a kind and one pair of scales per layer",
            where="twin.json: kv_cache",
            expected=f"fp8 or int8, {layers} layers",
            actual=f"{wanted.get('kind')}, {len(scales)} layers",
        )
    return {
        layer: tuple(  # type: ignore[misc]
            functools.partial(kind, scale=_scale(scales[str(layer)].get(part), f"kv_cache.{layer}"))
            for part in ("k", "v")
        )
        for layer in range(layers)
    }


def _scale(value: object, where: str) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise Refusal("not-a-twin", "a scale must be a positive number", where=where, actual=value)
    return torch.tensor(float(value), dtype=torch.float32)
