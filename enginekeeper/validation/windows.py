"""How many latest tokens the layers of a Hugging Face model attend to."""

from __future__ import annotations

from enginekeeper.configs.hugging_face import HfConfig


def source_windows(config: HfConfig, layers: int) -> list[int | None]:
    """Returns how many latest tokens each layer of the source attends to; None is all of them."""
    window = config.sliding_window
    if not window or config.use_sliding_window is False:
        return [None] * layers
    if config.layer_types is not None and len(config.layer_types) == layers:
        return [window if "sliding" in kind else None for kind in config.layer_types]
    first = 0
    if config.model_type in ("qwen2", "qwen3"):
        first = config.max_window_layers or 0
    return [window if layer >= first else None for layer in range(layers)]
