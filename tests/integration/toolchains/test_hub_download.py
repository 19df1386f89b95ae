"""A download by the Hub's real client, from a server that answers as the Hub does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.sources.hub import fetch_hub
from enginekeeper.sources.workplace import Workplace
from enginekeeper.toolchains.sync import ensure
from tests.factories.tiny_llama import llama_config, random_weights, write_model
from tests.fakes.hub import COMMIT, serving

pytestmark = pytest.mark.toolchain


def test_a_download_is_the_model_with_what_serves_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment()
    python = ensure("inductor", settings)
    model = write_model(tmp_path / "model", llama_config(), random_weights())
    serves = {
        "generation_config.json": b'{"eos_token_id": [10, 11]}',
        "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    }
    files = {path.name: path.read_bytes() for path in model.iterdir()} | serves
    others = {"onnx/config.json": b"{}", "consolidated.safetensors": b"", "old.bin": b""}
    place = Workplace(replace(settings, cache=tmp_path / "cache"), lambda _: python)

    with serving(files | others) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        fetched = fetch_hub("owner/model", COMMIT, place)

    assert sorted(one.name for one in fetched.files) == sorted(files)
    assert set(asked) == set(files)
    assert (fetched.path / "additional_chat_templates" / "tool_use.jinja").is_file()
