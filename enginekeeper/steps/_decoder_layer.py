"""The decoder layer and the head as modules that `torch.export` turns into graphs.

The modules own no weights: everything a checkpoint holds comes in as an argument, still quantized,
and so do the rotary tables, the mask and the norm's epsilon. The key-value cache is an argument too
and is written in place. All arithmetic is float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from _fake_quant import E4M3_MAX, INT8_MAX, INT8_MIN
from _linear import linear
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _linear_formats import LinearFormat

    Tensor = torch.Tensor
    Weights = Mapping[str, Mapping[str, Tensor]]

CACHE_TYPES = {"float32": torch.float32, "fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""What the cache stores for each KV cache format."""


class DecoderLayer(torch.nn.Module):
    """One layer of the Llama family, for one signature."""

    def __init__(
        self,
        shape: Mapping[str, int],
        layouts: Mapping[str, LinearFormat],
        *,
        activation: str,
        kv_cache: str,
    ) -> None:
        super().__init__()
        self._heads = shape["heads"]
        self._kv_heads = shape["kv_heads"]
        self._head_size = shape["head_size"]
        self._layouts = dict(layouts)
        self._activation = {"silu": functional.silu, "gelu": functional.gelu}[activation]
        self._kv_cache = kv_cache

    def forward(  # noqa: PLR0917 - an exported graph has positional inputs
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        slots: Tensor,
        mask: Tensor,
        cache: tuple[Tensor, Tensor],
        epsilon: Tensor,
        weights: Weights,
    ) -> Tensor:
        """Returns the next hidden states; `cache` receives this call's keys and values.

        Args:
            x: Hidden states (batch, tokens, hidden).
            rope: cos and sin (batch, 1, tokens, head size) of each token's own position.
            slots: Where in the cache the tokens go (tokens,).
            mask: What is added to the scores (batch, 1, tokens, cache length).
            cache: Keys and values (batch, key-value heads, cache length, head size).
            epsilon: The norms' epsilon, a scalar.
            weights: The checkpoint's tensors by linear and role; `vectors` holds the rest.
        """
        vectors = weights["vectors"]
        normed = rms_norm(x, vectors["input_norm"], epsilon)
        x = x + self._attention(normed, rope, slots, mask, cache, epsilon, weights)
        normed = rms_norm(x, vectors["post_norm"], epsilon)
        gated = self._activation(self._linear("fc", normed, weights))
        gated = gated * self._linear("gate", normed, weights)
        return x + self._linear("proj", gated, weights)

    def _linear(self, name: str, x: Tensor, weights: Weights) -> Tensor:
        return linear(x, self._layouts[name], weights[name])

    def _attention(  # noqa: PLR0917
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        slots: Tensor,
        mask: Tensor,
        cache: tuple[Tensor, Tensor],
        epsilon: Tensor,
        weights: Weights,
    ) -> Tensor:
        batch, tokens, _ = x.shape
        sizes = [self._heads, self._kv_heads, self._kv_heads]
        qkv = self._linear("qkv", x, weights).view(batch, tokens, sum(sizes), self._head_size)
        query, key, value = qkv.transpose(1, 2).split(sizes, dim=1)
        vectors = weights["vectors"]
        if "q_norm" in vectors:
            query = rms_norm(query, vectors["q_norm"], epsilon)
            key = rms_norm(key, vectors["k_norm"], epsilon)
        query, key = _rotated(query, rope), _rotated(key, rope)
        keys = self._cached(cache[0], key, slots, vectors.get("k_scale"))
        values = self._cached(cache[1], value, slots, vectors.get("v_scale"))
        groups = self._heads // self._kv_heads
        attended = functional.scaled_dot_product_attention(
            query,
            keys.repeat_interleave(groups, dim=1),
            values.repeat_interleave(groups, dim=1),
            attn_mask=mask,
        )
        merged = attended.transpose(1, 2).reshape(batch, tokens, self._heads * self._head_size)
        return self._linear("dense", merged, weights)

    def _cached(self, cache: Tensor, new: Tensor, slots: Tensor, scale: Tensor | None) -> Tensor:
        """Writes to the cache and reads all of it back as float32.

        Attention reads what the cache holds, for the tokens of this call too, as TensorRT-LLM does
        with a paged context and as ModelOpt's key and value quantizers do.
        """
        match self._kv_cache:
            case "float32":
                cache.index_copy_(2, slots, new)
                return cache
            case "fp8":
                codes = (new / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
                bytes_ = cache.view(torch.uint8)
                bytes_.index_copy_(2, slots, codes.view(torch.uint8))
                return cache.to(torch.float32) * scale
            case "int8":
                codes = (new / scale).round().clamp(INT8_MIN, INT8_MAX).to(torch.int8)
                cache.index_copy_(2, slots, codes)
                return cache.to(torch.float32) * scale
            case other:
                raise AssertionError(other)


class Head(torch.nn.Module):
    """The final norm and the projection to the vocabulary."""

    def __init__(self, layout: LinearFormat) -> None:
        super().__init__()
        self._layout = layout

    def forward(self, x: Tensor, epsilon: Tensor, weights: Weights) -> Tensor:
        """Returns logits (rows, vocabulary) of hidden states (rows, hidden)."""
        normed = rms_norm(x, weights["vectors"]["norm"], epsilon)
        return linear(normed, self._layout, weights["output"])


def rms_norm(x: Tensor, weight: Tensor, epsilon: Tensor) -> Tensor:
    """Divides by the root of the mean square and multiplies with the weight."""
    spread = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)
    return x * spread * weight.to(torch.float32)


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
