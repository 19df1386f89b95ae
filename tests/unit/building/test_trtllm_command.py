"""Options to arguments, for every option of every release, against the double's own parser."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from enginekeeper.building.simulated.parser import RELEASES, parser_of
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.building.trtllm_command import arguments
from enginekeeper.errors import InputError
from enginekeeper.specs.build_flags import BuildFlag, FlagKind, Presence, build_flags
from enginekeeper.specs.build_options import Build

_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
_WORDS = st.text(st.sampled_from("abcxyz/._-0"), min_size=1).filter(lambda word: word[0] != "-")
_OPEN = {"cluster_key": "L4", "lora_target_modules": ("attn_qkv", "mlp_gate")}
"""Options whose words the table does not list, with words that are known."""

OPTIONS = [
    pytest.param(version, flag, id=f"{version}-{flag.name}")
    for version in RELEASES
    for flag in build_flags().values()
]


def _values(flag: BuildFlag) -> st.SearchStrategy[Any]:
    if flag.name in _OPEN:
        return st.just(_OPEN[flag.name])
    match flag.kind:
        case FlagKind.INT:
            return st.integers(0, 2**31 - 1)
        case FlagKind.TOGGLE | FlagKind.SWITCH:
            return st.booleans()
        case FlagKind.CHOICE:
            return st.sampled_from(flag.choices)
        case FlagKind.TEXTS:
            return st.lists(_WORDS, min_size=1, max_size=3).map(tuple)
        case _:
            return _TEXTS


def _as_parsed(flag: BuildFlag, value: Any) -> Any:  # noqa: ANN401 - of every kind
    if flag.kind is FlagKind.TOGGLE:
        return "enable" if value else "disable"
    if flag.kind is FlagKind.TEXTS:
        return list(value)
    return value.upper() if flag.name == "kv_cache_type" else value


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draws a release, and any of its options with a value of their kind."""
    version = draw(st.sampled_from(RELEASES))
    there = [it for it in build_flags().values() if it.presence(version) is not Presence.ABSENT]
    chosen = draw(st.lists(st.sampled_from(there), unique_by=lambda it: it.name, max_size=12))
    return version, {flag.name: draw(_values(flag)) for flag in chosen}


@settings(max_examples=300, deadline=None)
@given(requests())
def test_what_a_release_has_arrives_as_it_was_given(request: tuple[str, dict[str, Any]]) -> None:
    version, given_options = request

    parsed = vars(parser_of(version).parse_args(list(arguments(version, given_options))))

    for name, value in given_options.items():
        assert parsed[name] == _as_parsed(build_flags()[name], value)


@st.composite
def build_sections(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draws a release, and a spec's `build` section of options that it is not known to lack."""
    version = draw(st.sampled_from(RELEASES))
    theirs = [
        it for it in build_flags().values()
        if it.set_by == "spec" and it.presence(version) is not Presence.ABSENT
    ]  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(theirs), unique_by=lambda it: it.name, max_size=12))
    numbers = st.integers(1, 2**31 - 1)
    return version, {
        flag.name: draw(numbers if flag.kind is FlagKind.INT else _values(flag)) for flag in chosen
    }


@settings(max_examples=200, deadline=None)
@given(build_sections())
def test_what_a_spec_asks_for_arrives_beside_what_its_builder_asks_for(
    drawn: tuple[str, dict[str, Any]],
) -> None:
    version, section = drawn
    build = TypeAdapter(Build).validate_json(json.dumps(section))
    limits = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128, "max_num_tokens": 256}
    asked = {**limits, **build.given, **TensorrtLlmBuilder.timing_options}

    parsed = vars(parser_of(version).parse_args(list(arguments(version, asked))))

    assert build.given == section
    for name, value in asked.items():
        assert parsed[name] == _as_parsed(build_flags()[name], value)


@pytest.mark.parametrize(("version", "flag"), OPTIONS)
def test_every_option_is_taken_by_the_releases_that_have_it_and_by_no_other(
    version: str, flag: BuildFlag
) -> None:
    value = _OPEN.get(flag.name, _sample(flag))
    bearer = next(it for it in reversed(RELEASES) if flag.presence(it) is Presence.PRESENT)
    words = list(arguments(bearer, {flag.name: value}))

    taken, said = _parsed(version, words)

    if flag.presence(version) is Presence.ABSENT:
        assert not taken
        assert said.endswith(f"trtllm-build: error: unrecognized arguments: {' '.join(words)}\n")
        with pytest.raises(InputError, match="has no option"):
            arguments(version, {flag.name: value})
    else:
        assert taken
        assert list(arguments(version, {flag.name: value})) == words


def _sample(flag: BuildFlag) -> Any:  # noqa: ANN401 - of every kind
    samples = {
        FlagKind.INT: 3,
        FlagKind.TOGGLE: False,
        FlagKind.SWITCH: True,
        FlagKind.TEXTS: ("a",),
    }
    return flag.choices[0] if flag.choices else samples.get(flag.kind, "x")


def _parsed(version: str, words: list[str]) -> tuple[bool, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parser_of(version).parse_args(words)
        return True, said.getvalue()
    return False, said.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", True),
        ("max_batch_size", "8"),
        ("context_fmha", "enable"),
        ("gemm_plugin", "int8"),
        ("output_dir", ""),
        ("output_dir", "a\0b"),
        ("lora_dir", ("-x",)),
        ("lora_dir", ()),
        ("lora_dir", "a"),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: Any) -> None:  # noqa: ANN401 - wrong
    with pytest.raises(InputError, match="does not take"):
        arguments("1.2.1", {name: value})


def test_an_option_that_no_release_has_comes_with_one_that_is_meant() -> None:
    with pytest.raises(InputError) as caught:
        arguments("1.2.1", {"gemm_plugins": "auto"})

    assert caught.value.remedy is not None
    assert "gemm_plugin" in caught.value.remedy


def test_a_value_that_looks_like_an_option_stays_a_value() -> None:
    (word,) = arguments("1.2.1", {"output_dir": "--strip_plan"})

    assert parser_of("1.2.1").parse_args([word]).output_dir == "--strip_plan"
