"""The table of options against the double's own parser, and how a difference is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enginekeeper.building.simulated.parser import RELEASES, parser_of
from enginekeeper.errors import InputError
from enginekeeper.specs.build_flags import Presence, build_flags
from enginekeeper.specs.flag_drift import flag_drift
from enginekeeper.specs.help_text import HelpOption, options_of_help


def _help(version: str) -> dict[str, HelpOption]:
    return options_of_help(parser_of(version).format_help(), "help.txt")


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("columns", ["60", "200"])
def test_table_and_source_do_not_contradict_each_other(
    version: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    contradictions = [one for one in flag_drift(version, _help(version)) if not one.settles]

    assert contradictions == []


def test_a_help_settles_what_nobody_had_verified() -> None:
    settled = {one.option for one in flag_drift("1.1.0", _help("1.1.0"))}

    assert settled == {"auto_parallel", "gpus_per_node", "cluster_key"}


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("gemm_plugin", {"choices": ("auto", "disable")}, "choices"),
        ("context_fmha", {"default": "disable"}, "default"),
        ("max_batch_size", {"default": "256"}, "default"),
        ("strip_plan", {"is_switch": False}, "takes a value"),
        ("lora_dir", {"is_list": False}, "takes several"),
        ("max_seq_len", {"aliases": ()}, "aliases"),
    ],
)
def test_each_difference_is_told(name: str, change: dict[str, object], what: str) -> None:
    said = _help("1.2.1")
    said[name] = replace(said[name], **change)  # type: ignore[arg-type]

    (drift,) = flag_drift("1.2.1", said)

    assert (drift.option, drift.what, drift.settles) == (name, what, False)


def test_an_option_that_is_gone_or_new_is_told() -> None:
    said = _help("1.2.1")
    said["shiny"] = said.pop("reduce_fusion")

    assert {one.option: one.tool for one in flag_drift("1.2.1", said)} == {
        "reduce_fusion": "not there",
        "shiny": "there",
    }


def test_what_the_release_lacks_must_not_be_in_its_help() -> None:
    contradictions = [one for one in flag_drift("1.2.1", _help("1.0.0")) if not one.settles]

    assert {one.option for one in contradictions} == {
        name for name, flag in build_flags().items() if flag.presence("1.2.1") is Presence.ABSENT
    }


@pytest.mark.parametrize("columns", ["60", "200"])
def test_a_help_that_was_cut_short_is_refused_wherever_it_ends(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    whole = parser_of("1.2.1").format_help()
    lines = whole.splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if line.startswith("  --tokens_per_block"))

    for end in range(0, last + 1, 3):
        with pytest.raises(InputError, match=r"no options|not the whole help"):
            options_of_help("".join(lines[:end]), "help.txt")
    with pytest.raises(InputError, match="no usage"):
        options_of_help(whole[whole.index("options:") :], "help.txt")


@pytest.mark.parametrize("lacking", [2, 4])
def test_a_help_that_was_cut_in_its_last_option_is_refused(lacking: int) -> None:
    whole = parser_of("1.2.1").format_help().rstrip()
    assert whole.endswith(")")
    options_of_help(whole, "help.txt")

    with pytest.raises(InputError, match="not the whole help"):
        options_of_help(whole[:-lacking], "help.txt")


def test_a_text_without_options_is_no_help() -> None:
    with pytest.raises(InputError, match="no options"):
        options_of_help("bash: trtllm-build: command not found\n", "help.txt")
