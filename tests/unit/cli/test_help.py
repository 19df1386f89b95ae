"""Every command explains itself, and the root's help imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from enginekeeper.cli.main import _COMMANDS, cli


def commands() -> Iterator[tuple[str, ...]]:
    context = click.Context(cli)
    for name in _COMMANDS:
        yield (name,)
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in command.commands)


@pytest.mark.parametrize("path", [(), *commands()], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], ek: Callable[..., Any]) -> None:
    said = ek(*path, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage:")
    assert len(said.out.splitlines()) > 3


def test_the_root_lists_every_command(ek: Callable[..., Any]) -> None:
    said = ek("--help")
    for name, (_, _, line) in _COMMANDS.items():
        assert f"  {name} " in said.out
        assert line.split()[0] in said.out


def test_an_unknown_command_is_a_usage_error(ek: Callable[..., Any]) -> None:
    said = ek("bild")
    assert (said.code, said.out) == (2, "")
    assert "bild" in said.err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from enginekeeper.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'scipy', 'sqlalchemy', 'prefect', 'pydantic', 'boto3', 'alembic'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).parent / "ek"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("enginekeeper")
