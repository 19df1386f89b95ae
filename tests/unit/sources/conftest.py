from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}

LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj": (4, 4), "self_attn.k_proj": (2, 4), "self_attn.v_proj": (2, 4),
    "self_attn.o_proj": (4, 4), "mlp.gate_proj": (6, 4), "mlp.up_proj": (6, 4),
    "mlp.down_proj": (4, 6), "input_layernorm": (4,), "post_attention_layernorm": (4,),
}  # fmt: skip

Tensors = Mapping[str, NDArray[Any]]
MakeModel = Callable[..., Path]


def weights(layers: int = 2) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (8, 4),
        "model.norm.weight": (4,),
    }
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER.items()}
    return {
        name: generator.normal(size=shape).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }


def write_sharded(model: Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    for shard, members in halves.items():
        save_file({name: tensors[name] for name in members}, model / shard)
    index = {name: shard for shard, members in halves.items() for name in members}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def write_tokenizer(model: Path, tokens: int, added: int | None = None) -> None:
    vocabulary = {f"t{number}": number for number in range(tokens)}
    extra = [] if added is None else [{"id": added, "content": "<extra>"}]
    document = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": extra}
    (model / "tokenizer.json").write_text(json.dumps(document))


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes a small whole model; a test then breaks one thing of it."""

    def make(*, sharded: bool = False, name: str = "model", **config: object) -> Path:
        model = tmp_path / name
        model.mkdir()
        (model / "config.json").write_text(json.dumps({**CONFIG, **config}))
        if sharded:
            write_sharded(model, weights())
        else:
            save_file(dict(weights()), model / "model.safetensors")
        write_tokenizer(model, 8)
        return model

    return make
