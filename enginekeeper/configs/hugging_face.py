"""A source model's `config.json`, as transformers 4 or 5 writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator

from enginekeeper.configs.form import Form, Layers, NotNegative, Positive, Size, Window
from enginekeeper.configs.scaling import Scaling, by_layer_type

ABSENT: Mapping[str, Mapping[str, object]] = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"max_window_layers": 28},
    "qwen3": {"max_window_layers": 28, "head_dim": 128},
}
"""What transformers 5 takes for fields that a file of that model type does not hold, where that is
neither nothing nor what other fields give (configuration_mistral.py and so on); a null is kept."""


class _Wrapper(Form):
    """What stands outside the language model's own part of a multimodal config."""

    architectures: list[str] | None = None
    tie_word_embeddings: bool | None = None
    text_config: dict[str, Any] | None = None


class HfConfig(Form):
    """The decoder that a Hugging Face config describes; of a multimodal model, its `text_config`.

    Only the sizes that no decoder goes without are required.
    """

    remedy: ClassVar[str] = (
        "take config.json from the model's own source; Enginekeeper assumes no defaults"
    )

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    vocab_size: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    tie_word_embeddings: bool | None = None
    architectures: list[str] | None = None
    model_type: str | None = None
    rms_norm_eps: NotNegative | None = None
    hidden_act: str | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    max_position_embeddings: Size | None = None
    original_max_position_embeddings: Size | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Positive | None = None
    rope_scaling: Scaling | None = None
    rope_parameters: Annotated[dict[str, Scaling], BeforeValidator(by_layer_type)] | None = None
    sliding_window: Window | None = None
    use_sliding_window: bool | None = None
    max_window_layers: Window | None = None
    layer_types: list[str] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Reads the file's object; raises InputError that names the first field that is wrong."""
        outer = _Wrapper.of(values, where)
        if outer.text_config is None:
            return cls.inside(_filled(values), where, ())
        # Whether embeddings are tied is a matter of the whole model, and older files say it there.
        decoder = {
            "tie_word_embeddings": outer.tie_word_embeddings,
            **outer.text_config,
            "architectures": outer.architectures,
        }
        return cls.inside(_filled(decoder), where, ("text_config",))

    @property
    def architecture(self) -> str | None:
        """The class that transformers makes of it."""
        return next(iter(self.architectures or ()), None)


def _filled(values: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = values.get("model_type")
    return {**(ABSENT.get(kind, {}) if isinstance(kind, str) else {}), **values}
