"""The table of TensorRT-LLM's releases: what is verified, and what is marked as not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.releases import (
    EngineBackend,
    fact_source,
    newest_stable_with_engines,
    releases,
    releases_with_engines,
)


def test_every_fact_has_a_source() -> None:
    for release in releases().values():
        for fact in release.every_fact().values():
            assert fact_source(fact)


def test_the_profile_that_rules_go_by_is_the_release() -> None:
    for name, release in releases().items():
        profile = toolchain_profiles()[name]

        assert profile.release is release
        assert profile.tensorrt == release.facts.tensorrt.value


def test_what_the_sources_do_not_say_is_marked() -> None:
    facts = releases()["tensorrt-llm-1.2.1"].facts

    assert (facts.modelopt.value, facts.modelopt.verified) == (None, False)
    assert (facts.torch.value, facts.torch.verified) == ("2.9.1", True)


def test_engines_end_with_1_3_0rc20() -> None:
    table = releases()

    assert table["tensorrt-llm-1.2.1"].engines.value is EngineBackend.LEGACY
    assert table["tensorrt-llm-1.3.0rc20"].engines.value is EngineBackend.DEPRECATED
    assert not table["tensorrt-llm-1.3.0rc22"].builds_engines
    assert table["tensorrt-llm-1.3.0rc22"].architecture_names == frozenset()


def test_a_model_is_there_from_the_release_that_brought_it() -> None:
    table = releases()

    assert "Gemma3ForCausalLM" not in table["tensorrt-llm-0.18.2"].architecture_names
    assert "Gemma3ForCausalLM" in table["tensorrt-llm-0.19.0"].architecture_names
    assert "Qwen3ForCausalLM" not in table["tensorrt-llm-0.21.0"].architecture_names
    assert "Qwen3ForCausalLM" in table["tensorrt-llm-1.0.0"].architecture_names


def test_which_releases_build_engines_is_read_from_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert newest_stable_with_engines().name == "tensorrt-llm-1.2.1"
    assert releases_with_engines() == "up to 1.2.1 (pre-releases: up to 1.3.0rc20)"

    newer = replace(newest_stable_with_engines(), name="tensorrt-llm-1.2.2", version="1.2.2")
    table = {**releases(), newer.name: newer}
    monkeypatch.setattr("enginekeeper.specs.releases.releases", lambda: table)
    assert newest_stable_with_engines() is newer
    assert releases_with_engines().startswith("up to 1.2.2 ")
