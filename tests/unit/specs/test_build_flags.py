"""The table of trtllm-build's options: its form, and what a spec offers of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter

from enginekeeper.errors import InputError
from enginekeeper.specs import build_flags as table
from enginekeeper.specs.build_flags import BuildFlag, FlagKind, Presence, build_flags, flag_source
from enginekeeper.specs.build_options import Build
from enginekeeper.specs.releases import releases
from enginekeeper.tables import read_table

FLAG: dict[str, Any] = {
    "name": "x", "kind": "int", "default": 1, "set_by": "spec", "has": ["1.2.1"], "source": "s"
}  # fmt: skip


def _offered(name: str) -> tuple[type | None, tuple[str, ...]]:
    """Returns what a field of the section takes: a plain type, or words."""
    pending, words = [get_type_hints(Build)[name]], ()
    plain: type | None = None
    while pending:
        hint = pending.pop()
        if get_origin(hint) is Literal:
            words = get_args(hint)
        elif hint in (bool, int, str):
            plain = hint
        else:
            pending += get_args(hint)
    return plain, words


def test_a_spec_offers_exactly_the_options_that_are_its_to_set() -> None:
    theirs = {name for name, flag in build_flags().items() if flag.set_by == "spec"}

    assert {field.name for field in fields(Build)} == theirs


@pytest.mark.parametrize("name", [field.name for field in fields(Build)])
def test_a_field_takes_what_the_option_takes(name: str) -> None:
    flag, (plain, words) = build_flags()[name], _offered(name)

    assert words == flag.choices
    kinds = {FlagKind.INT: int, FlagKind.TOGGLE: bool, FlagKind.SWITCH: bool}
    assert plain == kinds.get(flag.kind)


def test_options_that_run_code_or_read_other_files_are_nobodys_to_set() -> None:
    flags = build_flags()

    for name in ("model_cls_file", "model_cls_name", "build_config", "lora_dir"):
        assert flags[name].set_by == "never"


def test_every_option_has_a_source_and_says_only_releases_that_exist() -> None:
    known = {release.version for release in releases().values() if release.builds_engines}

    for flag in build_flags().values():
        assert flag_source(flag)
        assert {*flag.has, *flag.lacks} <= known


def test_what_nobody_has_looked_at_is_neither_there_nor_absent() -> None:
    flags = build_flags()

    assert flags["gpus_per_node"].presence("1.0.0") is Presence.PRESENT
    assert flags["gpus_per_node"].presence("1.1.0") is Presence.UNVERIFIED
    assert flags["gpus_per_node"].presence("1.2.1") is Presence.ABSENT
    assert flags["dora_plugin"].presence("0.18.2") is Presence.ABSENT
    assert flags["gemm_plugin"].presence("1.3.0rc20") is Presence.UNVERIFIED


@pytest.mark.parametrize(
    ("name", "in_0_18", "later"),
    [
        ("tokens_per_block", 64, 32),
        ("use_paged_context_fmha", False, True),
        ("use_fp8_context_fmha", False, True),
        ("max_batch_size", 2048, 2048),
    ],
)
def test_a_release_has_its_own_default_where_it_is_another_one(
    name: str, in_0_18: object, later: object
) -> None:
    flag = build_flags()[name]

    assert [flag.default_in(one) for one in ("0.18.2", "0.20.0", "1.2.1")] == [
        in_0_18, later, later,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"colour": "red"}, "colour"),
        ({"kind": "number"}, "kind"),
        ({"has": "1.2.1"}, "has"),
        ({"default": [1]}, "default"),
    ],
)
def test_a_row_in_another_form_is_an_error_that_names_the_field(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**FLAG, **wrong}))

    with pytest.raises(InputError, match=said):
        read_table(path, TypeAdapter(BuildFlag))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"source": "t"}, "source"),
        ({"lacks": ["1.2.1"]}, "both has and lacks"),
        ({"choices": ["a"]}, "choices"),
        ({"default": True}, "default"),
        ({"kind": "choice", "choices": ["a"], "default": "b"}, "default"),
        ({"defaults": {"1.2.1": "b"}}, "default of another kind"),
        ({"defaults": {"1.2.0": 2}}, "default of a release that does not have it"),
    ],
)
def test_a_row_that_contradicts_itself_is_an_error(
    wrong: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    sources = {"s": "somebody"}
    row = {**FLAG, **wrong}
    document = {"schema": 1, "tool": "trtllm-build", "sources": sources, "flags": [row]}
    path.write_text(json.dumps(document))
    monkeypatch.setattr(table, "TABLE", path)
    table._read.cache_clear()

    try:
        with pytest.raises(InputError, match=said):
            table.build_flags.__wrapped__()
    finally:
        monkeypatch.undo()
        table._read.cache_clear()
