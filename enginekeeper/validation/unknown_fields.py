"""Fields of either config that no other check looks at: harmless by name, neutral, or a doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.validation.config_rules import ARCHITECTURES
from enginekeeper.validation.findings import Finding

_SOURCE_HARMLESS = frozenset(
    {
        "attention_dropout", "auto_map",
        "bos_token_id", "chunk_size_feed_forward", "decoder_start_token_id", "dtype",
        "embd_pdrop", "eos_token_id", "hidden_dropout", "id2label", "initializer_range",
        "is_decoder", "is_encoder_decoder", "label2id", "max_length", "min_length",
        "name_or_path", "num_labels", "output_attentions", "output_hidden_states", "pad_token_id",
        "pretraining_tp", "problem_type", "resid_pdrop", "return_dict", "rope_interleaved",
        "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript",
        "transformers_version", "transformers.js_config", "unk_token_id", "use_cache",
        "is_llama_config",
    }
)  # fmt: skip
"""Fields that do not enter the forward pass of inference."""

_SOURCE_APPLIED: Mapping[str, tuple[object, ...]] = {
    "attention_multiplier": (1, 1.0),
    "attn_logit_softcapping": (),
    "embedding_multiplier": (1, 1.0),
    "final_logit_softcapping": (),
    "logit_scale": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "residual_multiplier": (1, 1.0),
}
"""Numbers that a decoder is multiplied or capped by, and the values that leave it as it is.

TensorRT-LLM's Llama and Qwen classes apply none, so that a model which names one is another one
under them; a model that carries one in vain has to drop it.
"""

_SOURCE_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "no_rope_layer_interval": (),
    "num_local_experts": (1,),
}
"""Fields that enter the forward pass, and the values that leave it as it is."""

_CHECKPOINT_HARMLESS = frozenset(
    {
        "bias", "decoder", "disable_weight_only_quant_plugin", "gpus_per_node",
        "has_partial_lora_mask", "max_lora_rank", "num_labels", "producer", "qwen_type", "rank",
        "remove_duplicated_kv_heads", "seq_length", "tie_word_embeddings", "transformers_version",
    }
)  # fmt: skip
"""Fields of a checkpoint that name it, or that its loader alone reads.

`bias` is ModelOpt's own; what TensorRT-LLM reads is `attn_bias` and `mlp_bias`.
"""

_CONVERTER_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "use_input_layernorm_in_first_layer": (True,),
    "use_last_layernorm": (True,),
}
"""Fields that TensorRT-LLM's own converters write, and the values that change nothing."""

_BLOCK_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "smoothquant_val": (0.5,),  # used when TensorRT-LLM quantizes by itself
    "use_meta_recipe": (False,),
}
"""Fields of the `quantization` block, and the values that change nothing."""

EXPORTED = "hugging_face"
"""Where a checkpoint in Hugging Face's format keeps the fields of its config that no form knows."""

_QUANTIZATION = "quantization_config"
"""What such an export adds to its source's config; `hf_quant_config.json` says the same."""

_NOTHING: tuple[object, ...] = (None, False, "", [], {})


def unknown_fields(source: HfConfig, checkpoint: TrtConfig) -> Iterator[Finding]:
    """Yields doubt for every field that may change the mathematics and that nothing judges.

    A number that is known to change it, and that no decoder here applies, is a fault.
    """
    yield from _of_source(source)
    yield from _changed(source, (checkpoint.model_extra or {}).get(EXPORTED))
    for name, value in _others(checkpoint.model_extra):
        if name == EXPORTED:
            continue
        if name in _CHECKPOINT_HARMLESS or _has_no_experts(name, value):
            continue
        if value not in _CONVERTER_NEUTRAL.get(name, ()):
            yield _doubt(name, value, "checkpoint's config", "this audit does not know it")
    block = checkpoint.quantization
    for name, value in _others(None if block is None else block.model_extra):
        if value not in _BLOCK_NEUTRAL.get(name, ()):
            where = f"quantization.{name}"
            yield _doubt(where, value, "checkpoint's config", "this audit does not know it")


def _of_source(source: HfConfig) -> Iterator[Finding]:
    whose, why = "source's config", "this audit does not know what the checkpoint must hold for it"
    for name, value in _others(source.model_extra):
        if name in _SOURCE_HARMLESS or name.startswith(("_", "unsloth_")):
            continue
        if name in _SOURCE_APPLIED:
            if value not in _SOURCE_APPLIED[name]:
                known = source.architecture in ARCHITECTURES
                yield _not_applied(name, value) if known else _doubt(name, value, whose, why)
        elif value not in _SOURCE_NEUTRAL.get(name, ()):
            yield _doubt(name, value, whose, why)


def _changed(source: HfConfig, exported: object) -> Iterator[Finding]:
    """Yields doubt for fields that an export in the source's own format has otherwise."""
    if not isinstance(exported, Mapping):
        return
    ours, theirs = source.model_extra or {}, {**exported}
    for name in sorted((ours.keys() | theirs.keys()) - {_QUANTIZATION}):
        if name in _SOURCE_HARMLESS or name.startswith(("_", "unsloth_")):
            continue
        was, now = ours.get(name), theirs.get(name)
        if was != now and not (was in _NOTHING and now in _NOTHING):
            why = f"the source says {was}"
            yield _doubt(name, now, "checkpoint's config", why)


def _has_no_experts(name: str, value: object) -> bool:
    """Says whether this is the `moe` block that a converter writes for a dense model."""
    return name == "moe" and isinstance(value, dict) and not value.get("num_experts")


def _others(extra: Mapping[str, object] | None) -> list[tuple[str, object]]:
    """Returns what no form declares, by name, without what is absent or empty."""
    return [(name, value) for name, value in sorted((extra or {}).items()) if value not in _NOTHING]


def _not_applied(name: str, value: object) -> Finding:
    return Finding(
        f"config.{name}",
        "fail",
        name,
        f"{name}: {value} in the source's config, and TensorRT-LLM applies none in this decoder; "
        "if the model's own code does not either, remove it from the source",
        "missing",
        value,
        "T26",
    )


def _doubt(name: str, value: object, whose: str, why: str) -> Finding:
    return Finding(
        "config.unknown",
        "inconclusive",
        name,
        f"{name}: {value} in the {whose} may change the mathematics, and {why}",
        value,
        None,
        "T26",
    )
