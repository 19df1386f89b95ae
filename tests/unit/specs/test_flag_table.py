"""The table of options, written anew from a release's own help."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from enginekeeper.building.simulated.parser import RELEASES, parser_of
from enginekeeper.specs import build_flags as module
from enginekeeper.specs.build_flags import TABLE, BuildFlag, Presence, build_flags
from enginekeeper.specs.flag_table import settled_table
from enginekeeper.specs.help_text import HelpOption, options_of_help


def _help(version: str) -> dict[str, HelpOption]:
    return options_of_help(parser_of(version).format_help(), "help.txt")


def _flags(text: str) -> dict[str, BuildFlag]:
    """Reads a table by the form that the shipped one is read by."""
    table = TypeAdapter(module._Table).validate_json(text)
    return {flag.name: flag for flag in table.flags}


def test_where_nothing_is_settled_the_table_is_written_as_it_is() -> None:
    assert settled_table("1.2.1", _help("1.2.1")) == TABLE.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", RELEASES)
def test_after_a_help_nothing_of_its_release_is_unverified_and_others_are_as_they_were(
    version: str,
) -> None:
    said = _help(version)

    flags = _flags(settled_table(version, said))

    for name, flag in flags.items():
        assert flag.presence(version) is (Presence.PRESENT if name in said else Presence.ABSENT)
    for name, known in build_flags().items():
        for other in set(RELEASES) - {version}:
            assert flags[name].presence(other) is known.presence(other)


def test_an_option_nobody_knew_is_added_and_set_by_nobody() -> None:
    said = _help("1.2.1")
    forms = {
        "switch": replace(said["strip_plan"], name="a"), "int": replace(said["workers"], name="b"),
        "toggle": replace(said["context_fmha"], name="c"),
        "texts": replace(said["lora_dir"], name="d"),
        "choice": replace(said["gemm_swiglu_plugin"], name="e"),
        "text": replace(said["output_dir"], name="f", aliases=("other",)),
    }  # fmt: skip

    text = settled_table("1.2.1", said | {one.name: one for one in forms.values()})

    flags = _flags(text)
    for kind, option in forms.items():
        flag = flags[option.name]
        assert (flag.kind, flag.set_by, flag.has) == (kind, "never", ("1.2.1",))
        assert flag.default == flags[_original(kind)].default
    assert "help-1.2.1" in json.loads(text)["sources"]


def _original(kind: str) -> str:
    return {
        "switch": "strip_plan", "int": "workers", "toggle": "context_fmha", "texts": "lora_dir",
        "choice": "gemm_swiglu_plugin", "text": "output_dir",
    }[kind]  # fmt: skip


def test_an_option_that_is_gone_is_lacked_and_a_default_is_left_to_a_person() -> None:
    said = _help("1.2.1")
    del said["reduce_fusion"]
    said["max_batch_size"] = replace(said["max_batch_size"], default="256")

    flags = _flags(settled_table("1.2.1", said))

    assert flags["reduce_fusion"].presence("1.2.1") is Presence.ABSENT
    assert flags["max_batch_size"].default == build_flags()["max_batch_size"].default


def test_candidates_stand_before_their_release() -> None:
    said = _help("1.2.1")

    has = _flags(settled_table("1.3.0rc20", said))["max_batch_size"].has

    assert list(has)[-1] == "1.3.0rc20"
