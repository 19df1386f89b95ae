"""How positions are stretched, in the words both kinds of config share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginekeeper.configs.form import Form, NotNegative, Positive, Size


class Scaling(Form):
    """A `rope_scaling`, `rope_parameters` or `rotary_scaling` block.

    Parameters of types not known here stay in `model_extra`.
    """

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: Positive | None = None
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Size | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: NotNegative | None = None
    mscale_all_dim: NotNegative | None = None
    attention_factor: NotNegative | None = None
    short_factor: list[Positive] | None = None
    long_factor: list[Positive] | None = None

    @property
    def kind(self) -> str | None:
        """The type under either of its names."""
        return self.rope_type or self.type

    @property
    def stated(self) -> dict[str, Any]:
        """Every field that has a value, those of `model_extra` included."""
        return self.model_dump(exclude_none=True)


def by_layer_type(value: object) -> object:
    """Brings both forms of `rope_parameters` into one: a block for each type of layer.

    A block for all of them stands under the empty name.
    """
    if not isinstance(value, Mapping):
        return value
    several = bool(value) and all(isinstance(block, Mapping) for block in value.values())
    if several and not value.keys() & Scaling.model_fields.keys():
        return value
    return {"": value} if value else {}
