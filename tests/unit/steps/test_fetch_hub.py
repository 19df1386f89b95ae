"""Which files of a repository are the model."""

from __future__ import annotations

from tests.factories.step_modules import step_module


def test_a_download_is_the_model_and_what_serves_it_and_no_other_format() -> None:
    model = [
        "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "config.json",
        "generation_config.json", "model-00001-of-00002.safetensors",
        "model.safetensors.index.json", "vocab.txt",
    ]  # fmt: skip
    others = [
        "onnx/model.safetensors", "onnx/config.json", "original/chat_template.jinja",
        "additional_chat_templates/old/tool_use.jinja", "consolidated.safetensors",
        "model.gguf", "pytorch_model.bin", "modeling_own.py", "README.md",
    ]  # fmt: skip

    assert step_module("fetch_hub").wanted([*others, *reversed(model)]) == model
