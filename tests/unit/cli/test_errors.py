"""Exit codes: one table, total over the error families, and equal to the README's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enginekeeper import errors as app
from enginekeeper.cli._errors import MEANING, ExitCode, exit_code_of, report
from registry import errors as reg

README = Path(__file__).parents[3] / "README.md"


def subclasses(root: type[reg.DiagnosedError]) -> list[type[reg.DiagnosedError]]:
    below = [cls for child in root.__subclasses__() for cls in [child, *subclasses(child)]]
    return [cls for cls in below if cls not in (app.EngineKeeperError, reg.RegistryError)]


@pytest.mark.parametrize("family", subclasses(reg.DiagnosedError), ids=lambda cls: cls.__name__)
def test_every_error_family_has_an_exit_code(family: type[reg.DiagnosedError]) -> None:
    error = family.__new__(family)
    assert exit_code_of(error) is not ExitCode.INTERNAL


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
