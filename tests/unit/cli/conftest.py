from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli.main import run
from tests.factories.benches import Site, environment_of, make_site


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.out)


Ek = Callable[..., Said]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The registry that commands find, on this very machine."""
    return make_site(tmp_path, host=None)


@pytest.fixture
def ek(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Ek]:
    """Runs a command the way the installed script does, exit code included."""
    for name, value in environment_of(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("ENGINEKEEPER_CATALOGUE", "ENGINEKEEPER_STORE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ek", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in said.err
        return Said(ended.value.code, said.out, said.err)

    yield call
    progress = logging.getLogger("enginekeeper.progress")
    progress.handlers, progress.propagate = [], True  # it wrote to this test's stderr
