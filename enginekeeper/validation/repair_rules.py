"""What the exporter is known to leave out or to get wrong, one function for each fault.

Each was seen in what ModelOpt 0.47.0 exports with transformers 5.14.1 when `tensorrt_llm` cannot
be imported (then its config comes from `convert_to_tensorrt_llm_config`'s manual path), or follows
from what TensorRT-LLM does with the missing field. No rule invents a value: it comes from the
source's config, and the tensors must agree.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.errors import InputError
from enginekeeper.validation.rope import DEFAULT_BASE
from enginekeeper.validation.windows import source_windows

_RELATIVE = 1e-6
"""A base that went through float32 on its way differs by up to 6e-8."""

_SCALING_KEYS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
"""The stretches whose every parameter both sides name alike; others are left to the audit."""

_LLAMA = ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM")
_QWEN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True)
class Repair:
    """One field to be changed, and why that is certain."""

    rule: str
    field: str
    """`<file>: <dotted path>`, e.g. `config.json: quantization.pre_quant_scale`."""
    was: Any
    """The value found; None where the field is missing."""
    now: Any
    reason: str
    source: str
    """Where the value comes from."""

    @property
    def path(self) -> tuple[str, ...]:
        """The field's keys inside the file."""
        return tuple(self.field.partition(": ")[2].split("."))


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at: the source's config, the checkpoint's, and the tensors' names."""

    source: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: frozenset[str]

    @property
    def architecture(self) -> str:
        """The class of TensorRT-LLM that reads the config."""
        return str(self.config.get("architecture"))

    def holds(self, suffix: str) -> bool:
        """Whether any tensor's name ends so."""
        return any(name.endswith(suffix) for name in self.tensors)


Rule = Callable[[Evidence], Repair | None]


def rotary_base(evidence: Evidence) -> Repair | None:
    """Sets the rope base: absent, TensorRT-LLM takes 10000 whatever the model was trained with."""
    stated = _stated_base(evidence.source)
    if stated is None:
        return None
    value, key = stated
    was = evidence.config.get("rotary_base")
    effective = DEFAULT_BASE if was is None else _positive(was)
    if effective is not None and math.isclose(effective, value, rel_tol=_RELATIVE):
        return None
    missing = f"missing, so TensorRT-LLM takes {DEFAULT_BASE:g}"
    return Repair(
        rule="rotary-base",
        field="config.json: rotary_base",
        was=was,
        now=value,
        reason=f"rotary_base is {missing if was is None else was}; the source states {value:g}",
        source=f"source config.json: {key}",
    )


def rotary_scaling(evidence: Evidence) -> Repair | None:
    """Sets the stretch of positions: absent, TensorRT-LLM does not stretch them."""
    stated = _stated_scaling(evidence.source)
    if stated is None or evidence.config.get("rotary_scaling") is not None:
        return None
    scaling, key = stated
    return Repair(
        rule="rotary-scaling",
        field="config.json: rotary_scaling",
        was=None,
        now=scaling,
        reason="rotary_scaling is missing, so TensorRT-LLM does not stretch positions; "
        f"the source states {scaling['type']}",
        source=f"source config.json: {key}",
    )


def attention_window(evidence: Evidence) -> Repair | None:
    """Sets how many latest tokens each layer attends to: absent, TensorRT-LLM attends to all."""
    try:
        config = HfConfig.of(evidence.source, "source config.json")
    except InputError:
        return None  # the audit refuses it, and says why
    longest = config.max_position_embeddings
    stated = (evidence.config.get("runtime_defaults"), evidence.config.get("sliding_window"))
    if longest is None or any(stated):
        return None
    # The list holds numbers only: a layer without a window attends to the whole context.
    windows = source_windows(config, config.num_hidden_layers)
    sizes = [longest if size is None else min(size, longest) for size in windows]
    if all(size == longest for size in sizes):
        return None
    shown = ", ".join(str(size) for size in sorted(set(sizes)))
    return Repair(
        rule="attention-window",
        field="config.json: runtime_defaults",
        was=stated[0],
        now={"max_attention_window": sizes if len(set(sizes)) > 1 else sizes[:1]},
        reason="runtime_defaults is missing, so TensorRT-LLM attends to everything; "
        f"the source's layers attend to {shown} tokens",
        source="source config.json: sliding_window",
    )


def promised_prequant(evidence: Evidence) -> Repair | None:
    """Withdraws the promise of pre-quant scales where there are none: plain group-wise INT4.

    TensorRT-LLM then builds the same linear without the multiplication, which is what was
    quantized; with the promise it refuses the checkpoint for the tensors it lacks. W4A8 is left
    alone: its loader divides every pre-quant scale by the activation scale and needs them.
    """
    block = evidence.config.get("quantization")
    if not isinstance(block, Mapping) or block.get("quant_algo") != "W4A16_AWQ":
        return None
    if block.get("pre_quant_scale") is not True or evidence.holds(".prequant_scaling_factor"):
        return None
    return Repair(
        rule="promised-prequant",
        field="config.json: quantization.pre_quant_scale",
        was=True,
        now=False,
        reason="pre_quant_scale is true, and no linear has a prequant_scaling_factor",
        source="checkpoint: names of all tensors",
    )


def attention_bias(evidence: Evidence) -> Repair | None:
    """States whether q, k and v have biases: Llama assumes none, Qwen assumes them.

    An unread bias is only a warning in TensorRT-LLM ("Provided but not required tensors").
    """
    stated = evidence.source.get("attention_bias")
    wanted = {True: _LLAMA, False: _QWEN}.get(stated, ()) if isinstance(stated, bool) else ()
    if evidence.architecture not in wanted or evidence.holds(".attention.qkv.bias") != stated:
        return None
    return _missing_flag(evidence, "attention-bias", "attn_bias", "attention_bias")


def mlp_bias(evidence: Evidence) -> Repair | None:
    """States that the MLP has biases: Llama assumes none and would drop them with a warning."""
    stated = evidence.source.get("mlp_bias")
    if stated is not True or evidence.architecture not in _LLAMA:
        return None
    if not evidence.holds(".mlp.fc.bias"):
        return None
    return _missing_flag(evidence, "mlp-bias", "mlp_bias", "mlp_bias")


def qwen_type(evidence: Evidence) -> Repair | None:
    """Names the kind of Qwen: TensorRT-LLM's layer reads it, its config has no default."""
    stated = evidence.source.get("model_type")
    if evidence.architecture not in _QWEN or stated not in ("qwen2", "qwen3"):
        return None
    return _missing_flag(evidence, "qwen-type", "qwen_type", "model_type")


RULES: tuple[Rule, ...] = (
    rotary_base,
    rotary_scaling,
    attention_window,
    promised_prequant,
    attention_bias,
    mlp_bias,
    qwen_type,
)


def _missing_flag(evidence: Evidence, rule: str, field: str, key: str) -> Repair | None:
    """Copies a value the source states into a field that is missing; never overrules one."""
    if evidence.config.get(field) is not None:
        return None
    value = evidence.source[key]
    return Repair(
        rule=rule,
        field=f"config.json: {field}",
        was=None,
        now=value,
        reason=f"{field} is missing; the source's {key} is {value}, and the tensors agree",
        source=f"source config.json: {key}",
    )


def _stated_base(source: Mapping[str, Any]) -> tuple[float, str] | None:
    """Returns the base the source states and where, or None if it states none or two."""
    stated = {
        "rope_theta": _positive(source.get("rope_theta")),
        "rope_parameters.rope_theta": _positive(
            _block(source, "rope_parameters").get("rope_theta")
        ),
    }
    known = {key: value for key, value in stated.items() if value is not None}
    if len(set(known.values())) != 1:
        return None
    key, value = list(known.items())[-1]
    return value, key


def _stated_scaling(source: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Returns the stretch as TensorRT-LLM writes it, if every parameter of it is stated."""
    key = "rope_parameters" if _block(source, "rope_parameters") else "rope_scaling"
    stated = _block(source, key)
    kind = stated.get("rope_type") or stated.get("type")
    names = _SCALING_KEYS.get(str(kind))
    if names is None or any(_positive(stated.get(name)) is None for name in names):
        return None
    return {"type": kind, **{name: stated[name] for name in names}}, key


def _block(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, Mapping) else {}


def _positive(value: object) -> float | None:
    """Returns a positive, finite JSON number as a float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None
