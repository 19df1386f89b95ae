"""Exit codes: one table, total over the error families, and equal to the README's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper import errors as app
from enginekeeper.cli._errors import (
    GRAVEST_FIRST,
    MEANING,
    ExitCode,
    exit_code_of,
    gravest,
    order_in_words,
    report,
)
from enginekeeper.cli.build import build
from registry import errors as reg

README = Path(__file__).parents[3] / "README.md"


def subclasses(root: type[reg.DiagnosedError]) -> list[type[reg.DiagnosedError]]:
    below = [cls for child in root.__subclasses__() for cls in [child, *subclasses(child)]]
    return [cls for cls in below if cls not in (app.EngineKeeperError, reg.RegistryError)]


@pytest.mark.parametrize("family", subclasses(reg.DiagnosedError), ids=lambda cls: cls.__name__)
def test_every_error_family_has_an_exit_code(family: type[reg.DiagnosedError]) -> None:
    assert exit_code_of(family) is not ExitCode.INTERNAL


def test_a_subclass_may_have_a_code_of_its_own() -> None:
    assert exit_code_of(reg.GateClosedError) is ExitCode.FAIL
    assert exit_code_of(reg.GateRefusedError) is ExitCode.REFUSED


def test_every_ending_has_its_place_in_the_order() -> None:
    endings = set(ExitCode) - {ExitCode.USAGE}
    assert sorted(GRAVEST_FIRST) == sorted(endings)


def test_the_order_is_in_the_readme_and_in_the_help_of_build() -> None:
    codes = ", ".join(str(int(code)) for code in GRAVEST_FIRST)
    assert f"the gravest first: {codes}" in " ".join(README.read_text().split())
    assert build.epilog is not None
    assert order_in_words() in build.epilog


@given(st.lists(st.sampled_from(GRAVEST_FIRST)), st.sampled_from(GRAVEST_FIRST))
def test_one_more_ending_never_makes_it_less_grave(codes: list[ExitCode], more: ExitCode) -> None:
    rank = GRAVEST_FIRST.index
    assert rank(gravest([*codes, more])) == min(rank(gravest(codes)), rank(more))


def test_the_readme_lists_every_exit_code() -> None:
    listed = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", README.read_text(), re.MULTILINE))
    assert listed == {str(int(code)): MEANING[code] for code in ExitCode}


def test_an_error_says_what_where_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    error = app.InputError("bad field", where="a.yaml:3", actual=1, expected=2, remedy="use 2")
    assert report(error, as_json=False) is ExitCode.INVALID_INPUT
    text = capsys.readouterr().err
    assert text.splitlines() == [
        "error: a.yaml:3: bad field", "  found:    1", "  expected: 2", "  next:     use 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("plan", "--json"), "Missing argument 'SPEC'."),
        (("where", "--nope", "-o", "json"), "No such option '--nope'"),
        (("nope", "--json"), "No such command 'nope'."),
    ],
)
def test_a_usage_error_is_one_json_line_where_json_was_asked_for(
    ek: Callable[..., Any], arguments: tuple[str, ...], what: str
) -> None:
    said = ek(*arguments)

    error = json.loads(said.err)
    assert (said.code, error["exit_code"], said.out) == (2, 2, "")
    assert error["error"] == "UsageError"
    assert error["what"].startswith(what)
