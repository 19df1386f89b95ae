"""How many latest tokens the layers of a Hugging Face model attend to."""

from __future__ import annotations

from enginekeeper.configs.hugging_face import HfConfig

_SWITCHED = ("qwen2", "qwen3")
"""Model types that have no window unless `use_sliding_window` is true, and none in their first
`max_window_layers` layers (transformers 5: configuration_qwen2.py, configuration_qwen3.py)."""


def source_windows(config: HfConfig, layers: int) -> list[int | None]:
    """Returns how many latest tokens each layer of the source attends to; None is all of them."""
    window, switched = config.sliding_window, config.model_type in _SWITCHED
    off = not config.use_sliding_window if switched else config.use_sliding_window is False
    if not window or off:
        return [None] * layers
    if config.layer_types is not None and len(config.layer_types) == layers:
        return [window if "sliding" in kind else None for kind in config.layer_types]
    first = (config.max_window_layers or 0) if switched else 0
    return [window if layer >= first else None for layer in range(layers)]
