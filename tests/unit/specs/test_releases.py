"""The table of TensorRT-LLM's releases: what is verified, and what is marked as not."""

from __future__ import annotations

from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.releases import EngineBackend, fact_source, releases


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
