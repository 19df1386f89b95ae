"""The config audit: every field that changes the mathematics, source against checkpoint.

Rules:

- a missing field means what TensorRT-LLM assumes, and is judged as that;
- a field of the source that changes the mathematics and is not known here is reported, not ignored;
- the quantization block must fit the tensors that are there.

What each check compares is in docs/audits.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from enginekeeper.configs.trtllm import Ranks
from enginekeeper.validation import quantization_audit
from enginekeeper.validation.checkpoint import Checkpoint, rank_file
from enginekeeper.validation.config_rules import (
    ARCHITECTURES,
    Configs,
    judge_field,
    judge_rope,
    rules,
)
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import NAMES
from enginekeeper.validation.unknown_fields import unknown_fields
from enginekeeper.validation.windows import source_windows

_CHECKPOINT_NEUTRAL: Mapping[str, object] = {
    "residual_mlp": False,
    "lm_head_bias": False,
    "rmsnorm": True,
    "q_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "output_multiplier_scale": 1.0,
    "use_logn_attn": False,
    "logits_soft_cap": None,
    "clip_qkv": None,
}
"""Fields of the checkpoint that change the mathematics, and the value Llama-family models need."""


def audit_config(source: SourceModel, checkpoint: Checkpoint) -> AuditReport:
    """Compares the two configs field by field, and the quantization block with the tensors."""
    configs = Configs(source.config, checkpoint.config)
    findings = [
        *_architecture(configs),
        *(f for f in (judge_field(rule, configs) for rule in rules(configs)) if f is not None),
        *judge_rope(configs),
        *_window(configs),
        *_embeddings(source, checkpoint, configs),
        *_query_key_norm(source, configs),
        *_parallel(configs),
        *_more_ranks(checkpoint),
        *_unexpected(configs),
        *_dtype(checkpoint),
        *unknown_fields(configs.source, configs.checkpoint),
        *quantization_audit.findings(checkpoint, configs.geometry),
    ]
    fields = ["rotary_base", *(rule.field for rule in rules(configs))]
    assumed = [name for name in fields if getattr(checkpoint.config, name) is None]
    return AuditReport("config", tuple(findings), {"assumed_by_tensorrt_llm": sorted(assumed)})


def _architecture(configs: Configs) -> Iterator[Finding]:
    wanted, stated = configs.source.architecture, configs.checkpoint.architecture
    if configs.family is None:
        yield Finding(
            "config.architecture",
            "inconclusive",
            "architecture",
            f"the source's architecture {wanted} is not known to this audit",
            wanted,
            ", ".join(ARCHITECTURES),
            "T26",
        )
        return
    family = ARCHITECTURES.get(stated or "")
    # Mistral is TensorRT-LLM's Llama class; the window is judged on its own.
    alike = {family, configs.family} <= {"llama", "mistral"}
    if family != configs.family and not alike:
        yield Finding(
            "config.architecture",
            "fail",
            "architecture",
            f"architecture: {stated}; source architectures {wanted}",
            stated,
            wanted,
            "T26",
        )


def _window(configs: Configs) -> Iterator[Finding]:
    layers = configs.geometry.layers
    longest = configs.source.max_position_embeddings
    expected = [
        None if size is None or (longest and size >= longest) else size
        for size in source_windows(configs.source, layers)
    ]
    stated = configs.checkpoint.max_attention_window
    pattern = [stated[layer % len(stated)] for layer in range(layers)]
    actual = [None if size is None or (longest and size >= longest) else size for size in pattern]
    if actual == expected:
        return
    sizes = sorted({size for size in expected if size is not None})
    missing = all(size is None for size in actual)
    yield Finding(
        "config.sliding_window",
        "fail",
        "runtime_defaults.max_attention_window",
        "the attention window is "
        + ("missing, TensorRT-LLM attends to everything" if missing else f"{stated}")
        + f"; source sliding_window {sizes or 'none'} in "
        f"{sum(size is not None for size in expected)} of {layers} layers",
        "missing" if missing else stated,
        expected if sizes else None,
        "T15",
    )


def _embeddings(source: SourceModel, checkpoint: Checkpoint, configs: Configs) -> Iterator[Finding]:
    shared = bool(configs.checkpoint.share_embedding_table)
    stored = bool(checkpoint.tensors(None, "lm_head.weight"))
    tied = configs.geometry.tied or "lm_head.weight" not in source
    if shared and not tied:
        message = "share_embedding_table: true; the source has an output head of its own"
    elif not shared and not stored:
        message = "share_embedding_table: false, and there is no lm_head.weight"
    elif shared and stored:
        message = "share_embedding_table: true, and there is an lm_head.weight that is not used"
    else:
        return
    yield Finding(
        "config.share_embedding_table",
        "inconclusive" if shared and tied else "fail",
        "share_embedding_table",
        message,
        shared,
        tied if not (shared and stored and tied) else "no lm_head.weight",
        "T8",
    )


def _query_key_norm(source: SourceModel, configs: Configs) -> Iterator[Finding]:
    expected = "model.layers.0.self_attn.q_norm.weight" in source
    by_class = ARCHITECTURES.get(configs.checkpoint.architecture or "") == "qwen3"
    stated = configs.checkpoint.qk_layernorm
    actual = by_class if stated is None else stated
    if actual != expected:
        yield Finding(
            "config.qk_layernorm",
            "fail",
            "qk_layernorm",
            f"qk_layernorm: {'missing, TensorRT-LLM assumes false' if stated is None else stated}; "
            f"the source {'has' if expected else 'has no'} query and key norms",
            "missing" if stated is None else stated,
            expected,
            "T26",
        )


def _parallel(configs: Configs) -> Iterator[Finding]:
    ranks, stages = configs.checkpoint.tensor_parallel, configs.checkpoint.pipeline_parallel
    size = configs.geometry
    uneven = [
        (name, count)
        for name, count, parts in (
            ("num_attention_heads", size.heads, ranks),
            ("intermediate_size", size.intermediate, ranks),
            ("num_hidden_layers", size.layers, stages),
        )
        if count % parts
    ]
    if size.kv_heads % ranks and ranks % size.kv_heads:
        uneven.append(("num_key_value_heads", size.kv_heads))
    for name, count in uneven:
        parts = stages if name == "num_hidden_layers" else ranks
        yield Finding(
            "config.mapping",
            "fail",
            f"mapping.{'pp_size' if name == 'num_hidden_layers' else 'tp_size'}",
            f"{parts} ranks do not divide {name} {count}: a head or layer is cut in two",
            parts,
            f"a divisor of {count}",
            "T14",
        )
    mapping = configs.checkpoint.mapping or Ranks()
    if mapping.cp_size not in (None, 1):
        yield Finding(
            "config.mapping",
            "inconclusive",
            "mapping.cp_size",
            "how context parallel ranks share what is here is not known to this audit",
            mapping.cp_size,
            1,
            "T14",
        )
    world = mapping.world_size
    if world is not None and world != ranks * stages * (mapping.cp_size or 1):
        yield Finding(
            "config.mapping",
            "fail",
            "mapping.world_size",
            f"world_size: {world}; tp_size x pp_size is {ranks * stages}",
            world,
            ranks * stages,
            "T14",
        )


def _more_ranks(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yields a finding where there are files of more ranks: the mapping or they are another's."""
    world = checkpoint.tensor_parallel * checkpoint.pipeline_parallel
    extra = rank_file(world)
    if (checkpoint.directory / extra).is_file():
        yield Finding(
            "config.mapping",
            "fail",
            extra,
            f"there are files of more ranks than the {world} of mapping.tp_size x mapping.pp_size",
            "present",
            "absent",
            "T14",
        )


def _unexpected(configs: Configs) -> Iterator[Finding]:
    for name, neutral in _CHECKPOINT_NEUTRAL.items():
        value = getattr(configs.checkpoint, name)
        if value not in (neutral, None):
            yield Finding(
                f"config.{name}",
                "fail",
                name,
                f"{name}: {value}; the source's architecture needs {neutral}",
                value,
                neutral,
                "T26",
            )


def _dtype(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Yields doubt where what is not quantized is stored in another dtype than the config's.

    TensorRT-LLM converts when it loads: float32 loses nothing that the weight audit would not see.
    """
    stored = {
        tensor.dtype
        for name in ("transformer.vocab_embedding.weight", "transformer.ln_f.weight")
        for tensor in checkpoint.tensors(None, name)
    }
    wanted = NAMES[np.dtype(checkpoint.dtype)]
    if stored - {wanted, "F32"}:
        yield Finding(
            "config.dtype",
            "inconclusive",
            "dtype",
            f"dtype: {checkpoint.dtype}; embedding and norms are stored as "
            f"{', '.join(sorted(stored))}",
            checkpoint.dtype,
            wanted,
            "T26",
        )
